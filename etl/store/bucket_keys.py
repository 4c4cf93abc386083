"""The keys of a store in a bucket: each is an object, put in one step.

A bucket renames nothing. What a folder does by renaming is done here by an order that a later run can finish:
``.<store>.ct-etl/`` beside it holds volumes and labels that are ready (`replace`), and the word that a store
is being started anew (`start_anew`). An object that was answered for is there for every reader at once, and
survives what its bucket survives: S3, Google Cloud Storage and Azure say so of theirs.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from etl.buckets.bucket import Bucket
from etl.errors import DiskFullError, EtlError, StoreError, UsageError
from etl.store.inventory import Inventory, sort_keys
from etl.store.layout import METADATA, own_keys_of
from etl.store.metadata import parsed, with_consolidated
from etl.store.replacing import order_text, outdated, parsed_order

Content = bytes | bytearray | memoryview
_ANEW = "anew"


def beside(store_url: str) -> str:
    """Give the URL below which lies what is about a store and not in it."""
    folder, _, name = store_url.rpartition("/")
    return f"{folder}/.{name}.ct-etl"


class BucketKeys:
    """A store in a bucket: see `etl.store.keys.Keys`.

    Parameters
    ----------
    url : str
        As `etl.store.keys.resolve_store` gives it.
    """

    def __init__(self, url: str) -> None:
        self.path = url
        self._objects = Bucket(url)
        self._beside = Bucket(beside(url))

    def check_place(self) -> None:
        """See `Keys.check_place`."""
        folder, _, name = self.path.rpartition("/")
        try:
            self._objects.level()
            with suppress(FileNotFoundError):
                Bucket(folder).head(name)
                raise UsageError(f"store {self.path!r} is an object; a name that only stores keys is needed")
        except OSError as error:
            raise UsageError(f"store cannot be listed: {error}") from error

    def get(self, key: str) -> bytes | None:
        """See `Keys.get`."""
        try:
            return self._objects.get(key)[1]
        except FileNotFoundError:
            return None

    def put(self, key: str, content: Content) -> None:
        """See `Keys.put`."""
        _put(self._objects, key, content)

    def put_parts(self, key: str, parts: Callable[[], Iterator[bytes]]) -> None:
        """See `Keys.put_parts`."""
        _put(self._objects, key, parts)

    def size(self, key: str) -> int | None:
        """See `Keys.size`."""
        try:
            return self._objects.head(key).size_bytes
        except FileNotFoundError:
            return None

    def digest(self, key: str) -> str | None:
        """See `Keys.digest`."""
        content = self.get(key)
        return None if content is None else hashlib.sha256(content).hexdigest()

    def part(self, key: str, start: int, stop: int) -> bytes | None:
        """See `Keys.part`."""
        try:
            return self._objects.get_range(self._objects.head(key), start, stop - start)
        except FileNotFoundError:
            return None

    def settle(self, keys: Iterable[str], below: str) -> None:
        """Do nothing: what a bucket has answered for is kept."""

    def names(self, group: str) -> list[str]:
        """See `Keys.names`."""
        groups, objects = self._objects.level(group)
        return sorted({*groups, *(found.name for found in objects)})

    def groups(self, group: str) -> list[str]:
        """See `Keys.groups`."""
        return self._objects.level(group)[0]

    def sizes(self, group: str, among: Iterable[str] | None = None) -> dict[str, int]:
        """See `Keys.sizes`; one request lists them all."""
        start = len(group) + 1 if group else 0
        return {found.name[start:]: found.size_bytes for found in self._objects.walk(group)}

    def inventory(self) -> Inventory:
        """See `Keys.inventory`."""
        return sort_keys((found.name for found in self._objects.walk()), self.get)

    def replace(self, groups: Mapping[str, Mapping[str, Content]], check: Callable[[], None]) -> None:
        """See `Keys.replace`; the old goes once the word is written that the new is ready."""
        name = uuid.uuid4().hex
        new = {f"{group}/{key}": value for group, content in groups.items() for key, value in content.items()}
        try:
            for key, value in new.items():
                check()
                _put(self._beside, f"staged/{name}/{key}", value)
            check()
            # Another run may have cleared it away meanwhile; its lock is then not ours any more.
            if not set(new) <= self._staged(name):
                raise StoreError(f"{', '.join(groups)} was not replaced: another run removed what was written")
            _put(self._beside, f"ready/{name}", order_text(groups))
        except (OSError, EtlError):
            with suppress(OSError):
                self._remove_staged(name)
            raise
        self._complete(name)

    def take_back(self, group: str) -> None:
        """See `Keys.take_back`."""
        self._take_back(group, own_keys_of(group))

    def _take_back(self, group: str, is_own: Callable[[str], bool]) -> None:
        inside = [found.name for found in self._objects.walk(group)]
        if f"{group}/{METADATA}" in inside:
            self._objects.remove([f"{group}/{METADATA}"])
        self._objects.remove(name for name in inside if is_own(name[len(group) + 1 :]))

    def remove(self, path: str) -> None:
        """See `Keys.remove`."""
        if self._objects.walk(path):
            self.take_back(path)
        else:
            self._objects.remove([path])

    def start_anew(self, root: bytes) -> str | None:
        """See `Keys.start_anew`; to readers the store is empty from the first step on."""
        _put(self._beside, _ANEW, root)
        return self._empty(root)

    def clear_leftovers(self) -> None:
        """See `Keys.clear_leftovers`."""
        with suppress(FileNotFoundError):
            self._empty(self._beside.get(_ANEW)[1])
        for name in [found.name for found in self._beside.walk("ready")]:
            self._complete(name.partition("/")[2])
        self._beside.remove([found.name for found in self._beside.walk("staged")])

    def _staged(self, name: str) -> set[str]:
        start = len(f"staged/{name}/")
        return {found.name[start:] for found in self._beside.walk(f"staged/{name}")}

    def _remove_staged(self, name: str) -> None:
        self._beside.remove([f"staged/{name}/{key}" for key in sorted(self._staged(name))])

    def _complete(self, name: str) -> None:
        """Copy what is ready into the place of the old, the metadata of each group last."""
        order = parsed_order(self._beside.get(f"ready/{name}")[1])
        if not {f"{group}/{key}" for group, keys in order.items() for key in keys} <= self._staged(name):
            # Somebody tidied up beside the store: the old is all that there is.
            self._beside.remove([f"ready/{name}"])
            return
        for group, keys in order.items():
            self._take_back(group, outdated(group, keys))
        for group, keys in order.items():
            for key in sorted(keys, key=lambda key: key == METADATA):
                self._beside.copy(f"staged/{name}/{group}/{key}", self._objects, f"{group}/{key}")
        self._beside.remove([f"ready/{name}"])
        self._remove_staged(name)

    def _empty(self, root: bytes) -> str | None:
        """Remove every volume, and move what is not of this package; whoever begins again ends the same."""
        # Metadata that name nothing: whoever opens the store finds no patients, whatever still lies there.
        _put(self._objects, METADATA, with_consolidated(parsed(root) or {}, {}).encode())
        names = [there.name for there in self._objects.walk()]
        found = sort_keys(names, self.get)
        # The metadata first: no reader meets half a volume.
        self._objects.remove(f"{node}/{METADATA}" for node in found.published)
        self._objects.remove(sorted({*names}.difference(found.foreign, {METADATA})))
        kept = Bucket(f"{self.path}.foreign")
        taken = {there.name for there in kept.walk()} if found.foreign else set()
        for name in found.foreign:
            self._objects.copy(name, kept, f"{name}.{uuid.uuid4().hex[:8]}" if name in taken else name)
            self._objects.remove([name])
        _put(self._objects, METADATA, root)
        self._beside.remove([_ANEW])
        return kept.url if found.foreign else None


def _put(place: Bucket, name: str, content: Content | Callable[[], Iterator[bytes]]) -> None:
    try:
        place.put(name, content)
    except OSError as error:
        # It was asked for two minutes: what comes next would fail too.
        raise DiskFullError(f"the bucket takes nothing more ({error}); run again when it does") from error
