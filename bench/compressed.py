"""Section on compressed input: what reading it takes beyond its decoder."""

from __future__ import annotations

import json
import statistics
import subprocess
from typing import Any

from measure import environment, median_ratio, take_turns
from session import Session
from table import Row, Section

SYNTAXES = {
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
}


def compressed(session: Session) -> Section:
    """Compare the stage that reads and decodes with the fastest decoder alone, and whole runs with native ones.

    The decoder's own time is a bare loop over the same frames in memory, in the same process and session.
    """
    slices = session.scaled(64, 16)
    native = session.made(f"native-{slices}", "native", slices=slices)
    sources = {
        name: session.made(f"encoded-{slices}-{name}", "encode", native, syntax=syntax)
        for name, syntax in SYNTAXES.items()
    }
    section = Section()
    runs = {name: session.run_etl(source) for name, source in {"native": native, **sources}.items()}
    taken = take_turns(runs, session.rounds, session.clear)
    section.keep(taken, "run, ")
    for name, source in sources.items():
        found = _decoding(session, source)
        section.measurements[f"decoding, {name}"] = found
        runs_cpu_s = [[usage.cpu_s for usage in taken[run]] for run in ("native", name)]
        section.rows += _rows(name, found, *runs_cpu_s)
    return section


def _rows(name: str, found: dict[str, Any], native_run: list[float], encoded_run: list[float]) -> list[Row]:
    decoders = {decoder: statistics.median(times) for decoder, times in found["decoder_cpu_s"].items()}
    fastest = min(decoders, key=decoders.__getitem__)
    expected = [cpu_s + decoders[fastest] for cpu_s in native_run]
    each_ms = ", ".join(f"{decoder} {1000 * cpu_s / found['frames']:.2f}" for decoder, cpu_s in decoders.items())
    return [
        Row(
            f"{name} input, CPU of reading and decoding / the fastest decoder alone",
            median_ratio(found["stage_cpu_s"], found["decoder_cpu_s"][fastest]),
            "x",
            1.15,
            note=f"ms a frame 512x512: {each_ms}",
        ),
        Row(
            f"    {name} input, CPU of a run / native run + the decoder's time",
            median_ratio(encoded_run, expected),
            "x",
            note=f"{found['frames']} slices, start-up included",
        ),
    ]


def _decoding(session: Session, source: object) -> dict[str, Any]:
    command = session.script("decoding.py", source, session.rounds)
    done = subprocess.run(command, check=True, env=environment(), stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


SECTIONS = {"compressed": compressed}
