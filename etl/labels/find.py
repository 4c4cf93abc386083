"""Which stored series a mask belongs to: by what it refers to, by its file's name, or by a mapping table."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from etl.codes import LabelCode
from etl.errors import StoreError, UsageError
from etl.labels.source_mask import LabelError, References
from etl.labels.survey import Source
from etl.scan.deidentify import Pseudonyms
from etl.store.keys import Keys
from etl.store.publish import describes_volume, published
from etl.store.source_map import read_source_map
from etl.volume.patient_space import Geometry

TARGETS = ("node", "series_uid", "patient_id")
COLUMNS = ("file", *TARGETS, "name")


@dataclass(frozen=True, eq=False)
class StoredSeries:
    """A published volume, as its attributes describe it."""

    node: str
    attributes: Mapping[str, Any]

    @property
    def about(self) -> Mapping[str, Any]:
        """The attribute ``ct_etl``."""
        found: Mapping[str, Any] = self.attributes["ct_etl"]
        return found

    @property
    def names(self) -> frozenset[str]:
        """What stands for this series alone: its key, its node, and its Series Instance UID."""
        return frozenset({self.node, self.node.rpartition("/")[2], str(self.about["series_instance_uid"])})

    @property
    def patient_names(self) -> frozenset[str]:
        """What stands for its patient."""
        return frozenset({self.node.partition("/")[0], str(self.about["patient_id"])})

    @cached_property
    def geometry(self) -> Geometry:
        """The grid of the volume."""
        return Geometry.from_attributes(self.about["geometry"])


@dataclass(frozen=True)
class MappedTo:
    """A row of a mapping table: what stands for the series, and the label's name; either may be empty."""

    target: str
    name: str


class StoreIndex:
    """The series of a store, to be found by what a mask says.

    Parameters
    ----------
    keys : Keys
    pseudonyms : Pseudonyms, optional
        Of the key that a de-identified store was written with.
    """

    def __init__(self, keys: Keys, pseudonyms: Pseudonyms | None) -> None:
        self._keys, self._pseudonyms = keys, pseudonyms
        nodes = [f"{patient}/{series}" for patient in keys.groups("") for series in keys.groups(patient)]
        found = ((node, published(keys, node)) for node in nodes)
        self.series = [
            StoredSeries(node, attributes)
            for node, attributes in found
            if attributes is not None and describes_volume(attributes)
        ]

    def find(self, source: Source, references: References, mapped: MappedTo | None) -> list[StoredSeries]:
        """Find the series of a mask.

        Raises
        ------
        LabelError
            ``no-such-series``, ``ambiguous-series`` or ``other-frame-of-reference``.
        """
        if mapped is not None and mapped.target:
            return self._named(mapped.target)
        if source.kind in ("nifti", "nrrd"):
            return self._named(source.stem)
        return self._referenced(references)

    def uid(self, uid: str) -> str:
        """Give a UID as the store has it."""
        return self._pseudonyms.uid(uid) if self._pseudonyms and uid else uid

    def _named(self, name: str) -> list[StoredSeries]:
        names = {name}
        if self._pseudonyms is not None:
            names |= {self._pseudonyms.uid(name), self._pseudonyms.patient(name)}
        of_series = [one for one in self.series if names & one.names]
        found = of_series or [one for one in self.series if names & one.patient_names]
        if not found:
            raise LabelError(
                LabelCode.NO_SUCH_SERIES,
                f"{name!r} is no series key, Series Instance UID, patient key or Patient ID of the store",
            )
        if len(found) > 1:
            raise LabelError(
                LabelCode.AMBIGUOUS_SERIES,
                f"{name!r} stands for {len(found)} volumes, {found[0].node} and {found[1].node} among them",
            )
        return found

    def _referenced(self, references: References) -> list[StoredSeries]:
        series = {self.uid(uid) for uid in references.series_instance_uids}
        instances = {self.uid(uid).encode() for uid in references.sop_instance_uids}
        space = self.uid(references.frame_of_reference_uid)
        found = [one for one in self.series if one.about["series_instance_uid"] in series]
        if instances and len(found) != 1:
            # A series of several stacks has several volumes; or the series was given another UID on its way.
            by_instance = self._with_instances(instances)
            found = [one for one in found or self.series if one.node in by_instance] or found
        for one in found:
            own = one.about.get("frame_of_reference_uid")
            if space and own and own != space:
                raise LabelError(
                    LabelCode.OTHER_FRAME_OF_REFERENCE,
                    f"Frame of Reference UID (0020,0052) {space}; that of {one.node} is {own}",
                )
        if not found and space:
            found = [one for one in self.series if one.about.get("frame_of_reference_uid") == space]
        if not found:
            named = sorted(series)[0] if series else space or "none"
            raise LabelError(LabelCode.NO_SUCH_SERIES, f"the store has no volume of what it refers to ({named})")
        return found

    def _with_instances(self, wanted: set[bytes]) -> set[str]:
        return {node for uid in wanted for node in self._nodes_of_instances.get(uid, ())}

    @cached_property
    def _nodes_of_instances(self) -> Mapping[bytes, Sequence[str]]:
        found: defaultdict[bytes, list[str]] = defaultdict(list)
        for one in self.series:
            try:
                identities = read_source_map(self._keys, one.node).identities
            except StoreError:
                continue
            for uid in {uid for uid, _ in identities}:
                found[uid].append(one.node)
        return found


def read_mapping(path: str) -> dict[str, MappedTo]:
    """Read a mapping table: a CSV with the column ``file``, and of the others of `COLUMNS` at least one.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict
        By the file's name, and by its absolute path where the table gives one with folders.

    Raises
    ------
    UsageError
        It cannot be read, has other columns, or names a file twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            columns = list(rows.fieldnames or ())
            table = [{name: (value or "").strip() for name, value in row.items() if name} for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"mapping table {path!r} cannot be read ({error})") from error
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown or "file" not in columns or len(columns) < 2:
        raise UsageError(
            f"mapping table {path!r} has the columns {', '.join(columns)}; allowed are file and any of "
            f"{', '.join(COLUMNS[1:])}"
        )
    found: dict[str, MappedTo] = {}
    folder = Path(path).absolute().parent
    for row in table:
        file = row["file"]
        key = file if Path(file).name == file else str((folder / file).resolve())
        if key in found:
            raise UsageError(f"mapping table {path!r} names {file!r} twice")
        target = next((row[name] for name in TARGETS if row.get(name)), "")
        found[key] = MappedTo(target, row.get("name", ""))
    return found


def mapped_to(mapping: Mapping[str, MappedTo], source: Source) -> MappedTo | None:
    """Give the row of a source; None where the table has none."""
    path = Path(source.path)
    return mapping.get(str(path.resolve())) or mapping.get(path.name)
