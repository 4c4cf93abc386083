"""One unit of work of a run."""

from __future__ import annotations

from dataclasses import dataclass

from etl.entry import Entry
from etl.stack import Stack
from etl.volume.geometry import Layout


@dataclass(frozen=True, eq=False)
class SeriesTask:
    """One unit of work: paths and numbers that turn one stack into one volume.

    Parameters
    ----------
    stack, layout : Stack, Layout
        Slices in spatial order, and where they are.
    entry : Entry
        The ledger's line as far as the plan knows it.
    source_digest, config_digest : str
        What the published volume is compared with.
    memory_bytes : int
        What a worker needs, at most.
    points : int
        How well the series suits as its patient's default, see `etl.plan.default_series`.
    picture : str, optional
        File for the report's picture.
    frame_of_reference_uid : str
        (0020,0052), which the slices have in common; empty where they have none.
    """

    stack: Stack
    layout: Layout
    entry: Entry
    source_digest: str
    config_digest: str
    memory_bytes: int
    points: int = 0
    picture: str | None = None
    frame_of_reference_uid: str = ""

    @property
    def bytes_in(self) -> int:
        """Bytes of pixel data once decoded; the measure of how much work this is."""
        return sum(self.stack.formats[i].frame_bytes for i in self.stack.slices.format)

    @property
    def unnamed_in(self) -> tuple[str, ...]:
        """Folders or zips of the files of a patient who has no Patient ID; empty for one who has."""
        if not self.stack.key.patient_id_from_path:
            return ()
        return tuple(sorted({where.container for where in self.stack.slices.locations}))
