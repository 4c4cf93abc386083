"""What a scan finds, packed by the worker that scanned: a driver that only passes it on need not unpack it.

A cohort has millions of slices. Unpacked, those of a series of 8 slices take the driver 20 kB; packed, they wait
in a file, and the driver keeps whom they belong to.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from etl.dicom.sources import Source
from etl.scan.scan import DEFAULT_LIMITS, Limits, ScanResult, merge_scans, scan_source
from etl.stack import Stack


@dataclass(frozen=True, slots=True)
class PackedStack:
    """A stack, and what tells which other stacks it has to be planned with.

    Parameters
    ----------
    patient_id, series_instance_uid : str
    content : bytes
    """

    patient_id: str
    series_instance_uid: str
    content: bytes


@dataclass(frozen=True, eq=False)
class PackedScan:
    """What one source holds: `rest` is all that is no stack."""

    stacks: tuple[PackedStack, ...]
    rest: ScanResult


def scan_packed(source: Source, limits: Limits = DEFAULT_LIMITS) -> PackedScan:
    """Scan a source as `etl.scan.scan.scan_source` does, and pack what it holds."""
    found = scan_source(source, limits)
    return PackedScan(tuple(map(_packed, found.stacks)), replace(found, stacks=()))


def unpacked(contents: Iterable[bytes]) -> ScanResult:
    """Join packed stacks, which all belong to each other or to none of the others."""
    # Only what `_packed` packed, in this process or in a worker of the run.
    return merge_scans([ScanResult(tuple(pickle.loads(zlib.decompress(content)) for content in contents))])  # noqa: S301


def _packed(stack: Stack) -> PackedStack:
    # Columns mostly repeat themselves: a stack of 256 slices is 80 kB as it is.
    content = zlib.compress(pickle.dumps(stack, pickle.HIGHEST_PROTOCOL), 1)
    return PackedStack(stack.key.patient_id, stack.key.series_instance_uid, content)
