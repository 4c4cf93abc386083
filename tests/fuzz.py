"""Mutated DICOM through scan, plan and process: ``python tests/fuzz.py --inputs 50000 --seed 0``.

Children with a memory limit do the work; the parent notes which input crashed, hung or ran out of memory. An input
is its seed and its number, so each can be made again with ``--only NUMBER``.
"""

from __future__ import annotations

import argparse
import io
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np

HANG_S = 10.0
LIMIT_MB = 64
"""What the options allow for a file and for a volume."""
MEMORY_MB = 1024
"""Resident memory of a child, imports included; 16 times what the options allow."""
ADDRESS_SPACE_MB = 8192
"""Above what the imports take. pydicom asks for as much as a length claims, up to 4 GB, before it reads; the pages
are never touched."""
MAX_SEED_BYTES = 700_000
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
TEXTS = (
    b"..\\..\\x", b"-1", b"0", b"1e308", b"nan", b"inf", b"99999999999", b"\x00" * 8, b"\xff" * 8,
    b"1\\2\\3\\4\\5\\6\\7", b"zarr.json", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.1.99",
    b"1.2.840.10008.1.2.5", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"SQ", b"UN", b"OB", b"OW", b"1e-300",
    b"\x1b$B",
)  # fmt: skip


# --- seeds ----------------------------------------------------------------------------------------------


def make_seeds(shared=SHARED):
    """Give stacks of whole files, of every transfer syntax and header shape at hand: tuples of (name, bytes)."""
    seeds = [*_phantom_seeds()]
    if shared.is_dir():
        seeds += _shared_seeds(shared)
    return seeds


def _phantom_seeds():
    from etl.phantom.files import Acquisition, write_enhanced, write_localizer, write_series
    from etl.phantom.head import HeadPhantom

    def acquire(**options):
        given = {"count": 3, "rows": 16, "columns": 16, "pixel_spacing_mm": (12.0, 12.0), **options}
        return Acquisition.regular(**given)

    def collect(write, *arguments, **options):
        files = {}
        write(files.__setitem__, HeadPhantom(), *arguments, **options)
        return tuple(sorted(files.items()))

    def decorate(_, dataset):
        from pydicom import Dataset
        from pydicom.sequence import Sequence

        inner = Dataset()
        inner.CodeValue, inner.CodeMeaning = "T-A0100", "Brain"
        outer = Dataset()
        outer.AnatomicRegionModifierSequence = Sequence([inner])
        dataset.AnatomicRegionSequence = Sequence([outer])
        dataset.private_block(0x0009, "MAKER", create=True).add_new(1, "LO", "PRIVATE")
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]

    syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
    for syntax in (*syntaxes, "1.2.840.10008.1.2.5"):
        yield collect(write_series, acquire(transfer_syntax_uid=syntax, padding=-2000))
    yield collect(write_series, acquire(gantry_tilt_deg=15, bits_stored=12, pixel_representation=0), edit=decorate)
    yield collect(write_series, acquire(temporal_position=2, intercept=(-1024.0, -1000.0, -900.0)))
    for syntax in syntaxes[:2]:
        yield collect(write_enhanced, acquire(transfer_syntax_uid=syntax))
        yield collect(write_enhanced, acquire(transfer_syntax_uid=syntax, intercept=(-1024.0, -1000.0, -900.0)))
    yield collect(write_localizer, rows=16)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, one in collect(write_series, acquire()):
            archive.writestr(f"study/{name}", one)
    yield (("patient.zip", content.getvalue()),)


def _shared_seeds(shared):
    import pydicom

    seeds = []
    for path in sorted(p for p in shared.rglob("*") if p.is_file() and p.stat().st_size <= MAX_SEED_BYTES):
        content = path.read_bytes()
        if path.suffix == ".zip":
            seeds.append((("shared.zip", content),))
        if content[128:132] != b"DICM":
            continue
        seeds.append((("file", content),))
        if "encodings" in path.parts and "enhanced" not in str(path):
            try:
                seeds.append(_stack_of(pydicom.dcmread(path)))
            except Exception:  # noqa: BLE001 - what pydicom cannot write again is a seed by itself
                continue
    # Many slices of one series are alike: some of each size are enough.
    by_size = {}
    for seed in seeds:
        by_size.setdefault((len(seed), len(seed[0][1]) // 20_000), []).append(seed)
    return [seed for group in by_size.values() for seed in group[:6]]


def _stack_of(dataset):
    """Make a stack of one slice: the same pixels at three positions, so that they are decoded."""
    files = []
    for k in range(3):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.{k + 1}"
        dataset.ImagePositionPatient = [0, 0, 5 * k]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        content = io.BytesIO()
        dataset.save_as(content)
        files.append((f"s{k}", content.getvalue()))
    return tuple(files)


# --- mutations ------------------------------------------------------------------------------------------


def mutate(content, rng, others):
    """Change a file in one to a few ways; mostly near its start, where the header is."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not changed:
            break
        reach = min(len(changed), 4096) if rng.random() < 0.7 else len(changed)
        at = int(rng.integers(reach))
        _MUTATIONS[int(rng.integers(len(_MUTATIONS)))](changed, at, rng, others)
    return bytes(changed)


def _flip(changed, at, rng, _):
    changed[at] ^= 1 << int(rng.integers(8))


def _byte(changed, at, rng, _):
    changed[at] = int(rng.integers(256))


def _number(changed, at, rng, _):
    value = NUMBERS[int(rng.integers(len(NUMBERS)))]
    size = (2, 4)[int(rng.integers(2))]
    order = "<>"[int(rng.integers(2))]
    packed = struct.pack(order + {2: "H", 4: "I"}[size], value & (0xFFFF if size == 2 else 0xFFFFFFFF))
    changed[at : at + size] = packed


def _text(changed, at, rng, _):
    value = TEXTS[int(rng.integers(len(TEXTS)))]
    changed[at : at + len(value)] = value


def _cut(changed, at, *_):
    del changed[at:]


def _drop(changed, at, rng, _):
    del changed[at : at + int(rng.integers(1, 64))]


def _double(changed, at, rng, _):
    part = bytes(changed[at : at + int(rng.integers(1, 256))])
    changed[at:at] = part * int(rng.integers(1, 4))


def _splice(changed, at, rng, others):
    other = others[int(rng.integers(len(others)))]
    start = int(rng.integers(len(other)))
    part = other[start : start + int(rng.integers(1, 2000))]
    changed[at : at + (len(part) if rng.random() < 0.5 else 0)] = part


def _nest(changed, at, rng, _):
    depth = int(rng.integers(1, 3000))
    changed[at:at] = (b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth


def _us(changed, _, rng, __):
    """Overwrite a whole number of the image description where it stands: Rows, Columns, bits, samples, frames."""
    element = (0x0002, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103)[int(rng.integers(7))]
    found = bytes(changed).find(struct.pack("<HH", 0x0028, element))
    if found >= 0:
        changed[found + 8 : found + 10] = struct.pack("<H", NUMBERS[int(rng.integers(9))] & 0xFFFF)


def _late(changed, _, rng, __):
    """Flip within the last part: pixels, codestreams, a zip's directory."""
    at = len(changed) - 1 - int(rng.integers(min(len(changed), 2000)))
    changed[at] ^= 1 << int(rng.integers(8))


_MUTATIONS = (_flip, _byte, _number, _text, _cut, _drop, _double, _splice, _nest, _us, _late)


def make_input(seeds, number, seed):
    """Give the files of an input: a whole stack of which one file, or each, is mutated."""
    rng = np.random.default_rng([seed, number])
    files = dict(seeds[int(rng.integers(len(seeds)))])
    others = [seeds[int(rng.integers(len(seeds)))][0][1] for _ in range(2)]
    names = list(files)
    if rng.random() < 0.3:
        state = rng.integers(2**32, size=2).tolist()
        for name in names:  # the same change in all: they stay one stack
            files[name] = mutate(files[name], np.random.default_rng(state), others)
    else:
        name = names[int(rng.integers(len(names)))]
        files[name] = mutate(files[name], rng, others)
    return files


# --- one input ------------------------------------------------------------------------------------------


def try_input(files, work):
    """Scan, plan and process the files; give what came out as counts by outcome.

    Raises whatever the code under test lets through, but for a plan that refuses two patients of one key.
    """
    from etl.config import build_config, load_preset
    from etl.errors import UsageError
    from etl.plan.plan import make_plan
    from etl.process.series import process
    from etl.scan.inputs import scan_inputs
    from etl.scan.scan import Limits
    from etl.workers.pool import SerialPool

    dicom = work / "dicom" / "patient"
    dicom.mkdir(parents=True)
    for name, content in files.items():
        (dicom / name).write_bytes(content)
    options = {"spacing_mm": "12", "min_slices": 2, "max_file_mb": LIMIT_MB, "max_volume_mb": LIMIT_MB}
    config = build_config(load_preset("head-ct"), options)
    scan = scan_inputs([str(work / "dicom")], SerialPool(), limits=Limits(file_bytes=LIMIT_MB << 20), quiet=True)
    found = Counter({"ignored": scan.ignored_files, "unreadable": len(scan.unreadable)})
    found["out of memory"] += sum("MemoryError" in item.detail for item in scan.unreadable)
    try:
        plan = make_plan(scan, config)
    except UsageError:
        return Counter({"refused": 1}), []
    for entry in plan.settled:
        found[f"{entry.outcome}: {entry.reason}"] += 1
    internal: list[str] = []
    for task in plan.tasks:
        receipt = process(task, config, str(work / "s.zarr"), str(dicom))
        entry = receipt.entry
        found[f"{entry.outcome}: {entry.reason}" if entry.reason else entry.outcome] += 1
        found["out of memory"] += "MemoryError" in (entry.detail or "")
        if entry.reason == "internal-error":
            internal.append(receipt.traceback or entry.detail)
    for path in (work / "s.zarr").glob("*/*/zarr.json"):
        json.loads(path.read_text(), parse_constant=_refuse)  # Infinity and NaN are no JSON
    return found, internal


def _refuse(constant):
    raise AssertionError(f"{constant} stands in the metadata of a series")


# --- processes ------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What came of all inputs."""

    inputs: int = 0
    outcomes: Counter = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    hangs: list[int] = field(default_factory=list)
    internal: dict[str, list[int]] = field(default_factory=dict)
    out_of_memory: list[int] = field(default_factory=list)
    most_mb: int = 0
    slowest_s: float = 0.0
    slowest: int = -1

    @property
    def is_clean(self):
        return not (self.crashes or self.hangs or self.out_of_memory)


def _serve(seeds, seed, numbers, state, results, work):
    """Work through inputs; the limit on the address space is a backstop for claims of terabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (ADDRESS_SPACE_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with results.open("a") as stream:
        for number in numbers:
            state[:16] = struct.pack("<qd", number, time.monotonic())
            shutil.rmtree(work, ignore_errors=True)
            start = time.monotonic()
            before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            line = {"number": number}
            try:
                outcomes, internal = try_input(make_input(seeds, number, seed), work)
                line |= {"outcomes": outcomes, "internal": internal}
            except BaseException:  # noqa: BLE001 - that is what is looked for
                line["crash"] = traceback.format_exc()
            line["seconds"] = time.monotonic() - start
            line["mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            line["grew_mb"] = line["mb"] - before_mb
            stream.write(json.dumps(line) + "\n")
            stream.flush()
    shutil.rmtree(work, ignore_errors=True)


def fuzz(inputs, seed, folder, *, processes=2, first=0, tell=None, shared=SHARED):
    """Run inputs `first` to `first + inputs` in child processes."""
    for name in ("etl.cli", "etl.run.run", "etl.process.series", "pydicom.pixels"):
        import_module(name)  # once here, not in each child
    seeds = make_seeds(shared)
    result, results = Result(), folder / "results.jsonl"
    results.touch()
    children = {}

    def launch(slot, start):
        state = mmap.mmap(-1, 16)
        state[:16] = struct.pack("<qd", start, time.monotonic())
        numbers = range(start, first + inputs, processes)
        pid = _forked(lambda: _serve(seeds, seed, numbers, state, results, folder / f"work{slot}"))
        children[pid] = (slot, state)

    for slot in range(min(processes, inputs)):
        launch(slot, first + slot)
    told = time.monotonic()
    try:
        while children:
            time.sleep(0.02)
            for pid, (slot, state) in list(children.items()):
                number, since = struct.unpack("<qd", state[:16])
                ended, status = os.waitpid(pid, os.WNOHANG)
                verdict = None if ended else _verdict(pid, since)
                if verdict is not None:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    getattr(result, verdict).append(number)
                elif not ended:
                    continue
                elif status:
                    ending = os.waitstatus_to_exitcode(status)
                    result.crashes.append(f"input {number}: the process ended with {ending}")
                del children[pid]
                if (verdict or status) and number + processes < first + inputs:
                    launch(slot, number + processes)
            if tell is not None and time.monotonic() - told > 20:
                told = time.monotonic()
                with results.open() as stream:
                    done = sum(1 for _ in stream)
                tell(f"{done} of {inputs}; {len(result.hangs)} hangs, {len(result.crashes)} deaths")
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    gather(results, result)
    return result


def _forked(function):
    pid = os.fork()
    if pid == 0:
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            function()
        except BaseException:  # noqa: BLE001 - a fork must not return
            os._exit(71)
        os._exit(0)
    return pid


def _verdict(pid, since):
    if time.monotonic() - since > HANG_S:
        return "hangs"
    return "out_of_memory" if _resident_mb(pid) > MEMORY_MB else None


def _resident_mb(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, IndexError):
        return 0


def gather(results, result):
    for line in map(json.loads, results.read_text().splitlines()):
        result.inputs += 1
        if line["seconds"] > result.slowest_s:
            result.slowest_s, result.slowest = line["seconds"], line["number"]
        result.most_mb = max(result.most_mb, line["mb"])
        if line["seconds"] > HANG_S:
            result.hangs.append(line["number"])
        if "crash" in line:
            result.crashes.append(f"input {line['number']}: {line['crash']}")
            continue
        result.outcomes.update(line["outcomes"])
        if line["outcomes"].get("out of memory") or line["grew_mb"] > MEMORY_MB // 2:
            result.out_of_memory.append(line["number"])
        for text in line["internal"]:
            last = text.strip().splitlines()[-1]
            place = [x.strip() for x in text.splitlines() if "/etl/" in x][-1:]
            result.internal.setdefault(f"{last[:150]} ({place[0] if place else ''})", []).append(line["number"])
    seen = {json.loads(line)["number"] for line in results.read_text().splitlines()}
    result.inputs += len({*result.hangs, *result.out_of_memory} - seen)
    result.inputs += sum("the process ended with" in text for text in result.crashes)


def _print(result):
    print(
        f"{result.inputs} inputs; slowest {result.slowest_s:.2f} s (input {result.slowest}); largest resident set "
        f"{result.most_mb} MB"
    )
    for name, count in sorted(result.outcomes.items(), key=lambda item: -item[1]):
        if count:
            print(f"  {count:8d} {name}")
    print(f"{len(result.crashes)} crashes, {len(result.hangs)} hangs over {HANG_S:g} s {result.hangs[:10]}")
    print(f"{len(result.out_of_memory)} over {MEMORY_MB} MB of memory {result.out_of_memory[:10]}")
    for text in result.crashes[:10]:
        print(text[-1500:])
    print(f"{sum(map(len, result.internal.values()))} internal errors of {len(result.internal)} kinds")
    for text, numbers in sorted(result.internal.items(), key=lambda item: -len(item[1])):
        print(f"  {len(numbers)} x {text}: inputs {numbers[:3]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, help="try this one input here, without a limit")
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as folder:
        if given.only is not None:
            print(try_input(make_input(make_seeds(), given.only, given.seed), Path(folder)))
            return
        tell = None if given.quiet else lambda text: print(text, file=sys.stderr, flush=True)
        result = fuzz(
            given.inputs, given.seed, Path(folder), processes=given.processes, first=given.first, tell=tell
        )
    _print(result)
    raise SystemExit(0 if result.is_clean else 1)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
