"""A zip in a bucket as a container: its directory and its members by range."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator

from etl.buckets.bucket import Bucket, Stored
from etl.dicom.ranged_stream import ranged_stream
from etl.dicom.zip_archive import Zip
from etl.stack import FileState

PIECE_BYTES = 1 << 20
"""Members are looked at in the order of their names, mostly that of the archive: the next are then there too."""


class BucketZip(Zip):
    """A zip archive in a bucket.

    Parameters
    ----------
    url : str
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        folder, _, self._name = url.rpartition("/")
        self._bucket = Bucket(folder)

    def states(self, members: Iterable[str]) -> Iterator[tuple[str, FileState]]:
        """Give the state of the archive, which stands for all its members."""
        yield "", self._found().state

    def _open_archive(self) -> tuple[zipfile.ZipFile, FileState]:
        found = self._found()
        return zipfile.ZipFile(ranged_stream(self._bucket, found, piece_bytes=PIECE_BYTES)), found.state

    def _found(self) -> Stored:
        return self._bucket.head(self._name)
