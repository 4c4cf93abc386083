"""Read headers, never pixels, and sort slices into stacks.

Where Pixel Data starts is remembered, so that processing need not parse a header again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import BinaryIO, Generic, Literal, TypeVar

import pydicom.config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from etl.dicom.attributes import read_text
from etl.dicom.containers import Opener
from etl.dicom.fast_header import FastHeaderReader
from etl.dicom.header_parser import Header
from etl.dicom.inflate import HEADER_BYTES, inflated
from etl.dicom.sources import Source, inner_source
from etl.scan.build_stacks import SliceRecord, build_stack, join_stacks, part_planes
from etl.scan.slice_records import FREE_TAGS, HEADER_SEQUENCES, HEADER_TAGS, records_of
from etl.stack import FileState, Location, Stack, StackKey
from etl.transfer_syntaxes import DEFLATED
from etl.workers.time_limit import TimeLimit

Part = TypeVar("Part")
MAGIC = b"DICM"
PREAMBLE_BYTES = 128
MIN_FILE_BYTES = 132
# An explicit Pixel Data has one of these, then two zeros; read as an implicit length all would be odd.
_PIXEL_VRS = (b"OW", b"OB", b"UN")
MAX_IGNORED_PATHS = 100
# A thread's answers are fetched for so many files at once.
BATCH_FILES = 256
# CT, enhanced CT, legacy converted enhanced CT; secondary captures of every kind.
IMAGE_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7")


@dataclass(frozen=True)
class Limits:
    """What a file may ask for before it is given up."""

    file_bytes: int = 4 << 30
    """Largest file or zip member, inflated."""
    header_limit_s: float = 900.0
    """Longest time for one header."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that cannot be read, or that says it is DICOM and cannot be parsed."""

    location: Location
    patient_name_from_path: str
    detail: str


@dataclass(frozen=True, eq=False)
class ScanResult:
    """What one or several sources hold."""

    stacks: tuple[Stack, ...] = ()
    ignored_files: int = 0
    ignored: tuple[Location, ...] = ()
    """The first hundred of them."""
    unreadable: tuple[Unreadable, ...] = ()
    files: int = 0


def scan_source(source: Source, limits: Limits = DEFAULT_LIMITS) -> ScanResult:
    """Read the headers of every file of a source.

    Raises nothing for bad files: what is not DICOM is ignored, what claims to be and cannot be parsed is listed.
    """
    collector: _Collector[SliceRecord] = _Collector()
    ignored: list[Location] = []
    unreadable: list[Unreadable] = []
    problems: list[tuple[str, str]] = []
    nested: list[ScanResult] = []
    files = ignored_files = 0
    with TimeLimit[list[SliceRecord]](limits.header_limit_s) as caller, Opener() as opener:
        read_rows = _RowReader(opener, source.name, limits)
        container = opener.container(source.container)
        for members in _batched(source.list_members(container, problems)):
            archives = {member: inner_source(container, member) for member in members}
            nested += [scan_source(archive, limits) for archive in archives.values() if archive is not None]
            locations = [Location(source.container, member) for member in members if archives[member] is None]
            files += len(locations)
            answers = caller.call_each(lambda _, location: read_rows(location), locations)
            for location, (rows, error) in zip(locations, answers, strict=True):
                for row in rows or ():
                    collector.add(row.key, row)
                if isinstance(error, InvalidDicomError | FileNotFoundError):
                    ignored_files += 1
                    ignored += [location] * (len(ignored) < MAX_IGNORED_PATHS)
                elif isinstance(error, Exception):
                    # Messages of parsers may quote the file; only their kind is told.
                    unreadable.append(Unreadable(location, source.name, f"{type(error).__name__} in its header"))
                elif error is not None:
                    raise error
    unreadable += (Unreadable(Location(source.container, at), source.name, what) for at, what in problems)
    stacks = tuple(build_stack(rows) for rows in collector.groups())
    own = ScanResult(stacks, ignored_files, tuple(ignored), tuple(unreadable), files)
    return merge_scans([own, *nested]) if nested else own


def merge_scans(results: Iterable[ScanResult]) -> ScanResult:
    """Join scans; a series that is spread over several folders or zips becomes one stack again."""
    found: list[Stack] = []
    ignored: list[Location] = []
    unreadable: list[Unreadable] = []
    files = ignored_files = 0
    for result in results:
        ignored += result.ignored
        unreadable += result.unreadable
        files += result.files
        ignored_files += result.ignored_files
        found += result.stacks
    collector: _Collector[Stack] = _Collector()
    for stack in _with_patients(found):
        collector.add(stack.key, stack)
    joined = tuple(part for parts in collector.groups() for part in part_planes(join_stacks(parts)))
    return ScanResult(joined, ignored_files, tuple(ignored[:MAX_IGNORED_PATHS]), tuple(unreadable), files)


def _with_patients(stacks: Sequence[Stack]) -> Iterator[Stack]:
    """Give slices without Patient ID (0010,0020) to the patient whom the rest of their series names."""
    named: dict[str, set[str]] = {}
    for key in (stack.key for stack in stacks):
        if not key.patient_id_from_path:
            named.setdefault(key.series_instance_uid, set()).add(key.patient_id)
    for stack in stacks:
        owners = named.get(stack.key.series_instance_uid, set()) if stack.key.patient_id_from_path else set()
        if len(owners) == 1:
            key = replace(stack.key, patient_id=next(iter(owners)), patient_id_from_path=False)
            yield replace(stack, key=key)
        else:
            yield stack


def _batched(members: Iterable[str]) -> Iterator[list[str]]:
    """Cut a listing, which may be of millions, into parts; `itertools.batched` came with Python 3.12."""
    remaining = iter(members)
    while batch := list(islice(remaining, BATCH_FILES)):
        yield batch


class _RowReader:
    """Reads the rows of one file after the other; what files of a folder share is worked out once."""

    def __init__(self, opener: Opener, source_name: str, limits: Limits) -> None:
        self._opener, self._source_name, self._limits = opener, source_name, limits
        self._reader = FastHeaderReader(HEADER_TAGS, HEADER_SEQUENCES, FREE_TAGS)
        self._siblings: dict[tuple[int, str], SliceRecord] = {}

    def __call__(self, location: Location) -> list[SliceRecord]:
        state, limits = self._opener.state(location), self._limits
        with self._opener.open(location) as stream:
            start = stream.read(MIN_FILE_BYTES)
            has_magic = start[PREAMBLE_BYTES:] == MAGIC
            if not has_magic and not _may_lack_preamble(start):
                raise InvalidDicomError
            # Only now: what is no DICOM is no failure, whatever its size.
            if state.size_bytes > limits.file_bytes:
                raise ValueError(f"{state.size_bytes} bytes; allowed are {limits.file_bytes}")
            stream.seek(0)
            header = self._reader.read(stream) if has_magic else None
            with warnings.catch_warnings(), pydicom.config.disable_value_validation():
                warnings.simplefilter("ignore")
                if header is None:
                    stream.seek(0)
                    header = _read_header(stream, limits, has_magic=has_magic)
                return self._rows(header, location, state)

    def _rows(self, header: Header, location: Location, state: FileState) -> list[SliceRecord]:
        folder = str(PurePosixPath(location.member.replace("\\", "/")).parent)
        # The folder stands in for identifiers that are absent.
        kind = header.alike, folder
        rows = records_of(
            header.dataset,
            transfer_syntax_uid=header.transfer_syntax_uid,
            location=location,
            source_name=self._source_name,
            folder=folder,
            pixel_offset=header.pixel_offset,
            pixel_length=header.pixel_length,
            state=state,
            crc32=self._opener.crc32(location),
            sibling=self._siblings.get(kind),
        )
        if header.alike and len(rows) == 1:
            self._siblings.setdefault(kind, rows[0])
        return rows


def _read_header(stream: BinaryIO, limits: Limits, *, has_magic: bool) -> Header:
    """Read a header as pydicom does, whatever kind of file it is."""
    content = inflated(stream, limit_bytes=limits.file_bytes, kept_bytes=HEADER_BYTES) if has_magic else stream
    dataset = dcmread(
        content, stop_before_pixels=True, force=not has_magic, specific_tags=list(HEADER_TAGS.values())
    )
    if not has_magic and ("SOPClassUID" not in dataset or "Modality" not in dataset):
        raise InvalidDicomError
    offset, length = _pixel_position(content, dataset)
    if offset < 0 and _is_image(dataset):
        raise EOFError("the file ends before Pixel Data (7FE0,0010)")
    syntax = DEFLATED if content is not stream else read_text(dataset.file_meta, "TransferSyntaxUID")
    return Header(dataset, syntax, offset, length)


def _is_image(dataset: Dataset) -> bool:
    """Whether an object should have pixels; one that does not even say what it is was cut off."""
    sop_class = read_text(dataset, "SOPClassUID") or read_text(dataset.file_meta, "MediaStorageSOPClassUID")
    return sop_class == "" or sop_class.startswith(IMAGE_SOP_CLASSES)


def _may_lack_preamble(start: bytes) -> bool:
    """Whether a file may begin with its first element: group 0002 or 0008, either byte order."""
    return start[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08", b"\x00\x02") and len(start) == MIN_FILE_BYTES


def _pixel_position(stream: BinaryIO, dataset: Dataset) -> tuple[int, int]:
    """Offset and length of Pixel Data's value; (-1, 0) without pixels.

    pydicom leaves the stream before the element it stopped at. What stands there decides whether it is explicit:
    the transfer syntax may say something else than the data set does.
    """
    order: Literal["little", "big"] = "little" if dataset.original_encoding[1] else "big"
    at = stream.tell()
    head = stream.read(12)
    if len(head) < 8:
        return -1, 0
    group = int.from_bytes(head[:2], order)
    element = int.from_bytes(head[2:4], order)
    if Tag(group, element) != 0x7FE00010:
        return -1, 0
    is_explicit = head[4:6] in _PIXEL_VRS and (head[6:8] == b"\0\0" or not dataset.original_encoding[0])
    raw = head[8:12] if is_explicit else head[4:8]
    length = int.from_bytes(raw, order)
    return at + (12 if is_explicit else 8), -1 if length == 0xFFFFFFFF else length


class _Collector(Generic[Part]):
    """Collects parts by the key of their stack."""

    def __init__(self) -> None:
        self._stacks: dict[StackKey, list[Part]] = {}
        self._last: tuple[StackKey | None, list[Part]] = None, []

    def add(self, key: StackKey, part: Part) -> None:
        if key is not self._last[0]:
            self._last = key, self._stacks.setdefault(key.bare(), [])
        self._last[1].append(part)

    def groups(self) -> list[list[Part]]:
        return list(self._stacks.values())
