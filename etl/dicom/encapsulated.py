"""Find the encoded frames in an encapsulated Pixel Data value, as writers really leave them.

What lies where decides, not what tables say: offset tables may be wrong, lengths odd or absent, the delimiter a
few zeros.

References
----------
DICOM PS3.5 A.4 (encapsulated pixel data), 7.5 (items).
"""

from __future__ import annotations

from collections.abc import Sequence

from etl.codes import FailureCode
from etl.errors import SeriesError

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
_HEAD_BYTES = 8
# SOI of JPEG and JPEG-LS; SOC and SIZ of JPEG 2000; signature box of JP2.
_FRAME_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


def split_frames(content: bytes, count: int) -> list[bytes]:
    """Cut a value into its encoded frames.

    Parameters
    ----------
    content : bytes
        From the first item, the Basic Offset Table, on.
    count : int
        Number of Frames (0028,0008).

    Raises
    ------
    SeriesError
        ``truncated-pixel-data``: the value ends within a fragment. ``inconsistent-slices``: it holds fewer frames
        than it should. ``undecodable``: nobody can tell which fragments make a frame.
    """
    starts, fragments, is_cut = _fragments(content)
    if not fragments:
        raise ValueError("no fragment was found in it")
    table = fragments.pop(0)
    starts.pop(0)
    if is_cut:
        raise SeriesError(
            FailureCode.TRUNCATED_PIXEL_DATA, f"Pixel Data (7FE0,0010) ends within fragment {len(fragments)}"
        )
    if len(fragments) == count:
        return fragments
    if len(fragments) < count:
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES,
            f"Number of Frames (0028,0008) is {count}; Pixel Data (7FE0,0010) holds {len(fragments)} fragments",
        )
    if count == 1 and sum(fragment.startswith(_FRAME_STARTS) for fragment in fragments) < 2:
        return [b"".join(fragments)]
    frames = _by_table(table, starts, fragments, count) or _by_frame_start(fragments, count)
    if frames is None:
        beginning = sum(fragment.startswith(_FRAME_STARTS) for fragment in fragments)
        if beginning == len(fragments):
            raise SeriesError(
                FailureCode.INCONSISTENT_SLICES,
                f"Number of Frames (0028,0008) is {count}; Pixel Data (7FE0,0010) holds {beginning} frames",
            )
        raise ValueError(f"no table and no mark tells which of {len(fragments)} fragments make {count} frames")
    return frames


def _fragments(content: bytes) -> tuple[list[int], list[bytes], bool]:
    """Give the start of each item in the value, what it holds, and whether the last one is cut off."""
    starts: list[int] = []
    fragments: list[bytes] = []
    at = 0
    while content[at : at + 4] == _ITEM:
        length = int.from_bytes(content[at + 4 : at + _HEAD_BYTES], "little")
        begin = at + _HEAD_BYTES
        end = begin + length
        starts.append(at)
        is_first = len(starts) == 1
        if length == _UNDEFINED or (length == 0 and not is_first and not _is_tag(content, end)):
            end = _next_tag(content, begin)
        fragments.append(content[begin:end])
        if end > len(content) or len(content) < begin:
            return starts, fragments, True
        # A length that leaves out the byte that made it even.
        at = end + 1 if not _is_tag(content, end) and _is_tag(content, end + 1) else end
    return starts, fragments, False


def _is_tag(content: bytes, at: int) -> bool:
    return content[at : at + 4] in (_ITEM, _END)


def _next_tag(content: bytes, at: int) -> int:
    """Find the next item or the delimiter; the end of the value where there is none."""
    found = [place for place in (content.find(_ITEM, at), content.find(_END, at)) if place >= 0]
    return min(found, default=len(content))


def _by_table(table: bytes, starts: Sequence[int], fragments: Sequence[bytes], count: int) -> list[bytes] | None:
    """Join fragments by the Basic Offset Table, where it points at fragments and at nothing else."""
    if len(table) != 4 * count:
        return None
    number = {start - starts[0]: i for i, start in enumerate(starts)}
    offsets = [int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table), 4)]
    if offsets[0] != 0 or offsets != sorted(set(offsets)) or not all(offset in number for offset in offsets):
        return None
    return _joined(fragments, [number[offset] for offset in offsets])


def _by_frame_start(fragments: Sequence[bytes], count: int) -> list[bytes] | None:
    """Join fragments by the marks with which a frame begins."""
    begins = [i for i, fragment in enumerate(fragments) if fragment.startswith(_FRAME_STARTS)]
    return _joined(fragments, begins) if len(begins) == count and begins[0] == 0 else None


def _joined(fragments: Sequence[bytes], begins: Sequence[int]) -> list[bytes]:
    ends = [*begins[1:], len(fragments)]
    return [b"".join(fragments[a:b]) for a, b in zip(begins, ends, strict=True)]
