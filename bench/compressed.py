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
    native_cpu = [usage.cpu_s for usage in taken["native"]]
    for name, source in sources.items():
        found = _decoding(session, source)
        section.measurements[f"decoding, {name}"] = found
        decoders = {name: statistics.median(times) for name, times in found["decoder_cpu_s"].items()}
        fastest = min(decoders, key=decoders.__getitem__)
        times = found["decoder_cpu_s"][fastest]
        whole = [usage.cpu_s for usage in taken[name]]
        expected = [cpu + decoders[fastest] for cpu in native_cpu]
        each_ms = ", ".join(f"{key} {1000 * value / found['frames']:.2f}" for key, value in decoders.items())
        section.rows += [
            Row(
                f"{name} input, CPU of reading and decoding / the fastest decoder alone",
                median_ratio(found["stage_cpu_s"], times),
                "x",
                1.15,
                note=f"ms a frame 512x512: {each_ms}",
            ),
            Row(
                f"    {name} input, CPU of a run / native run + the decoder's time",
                median_ratio(whole, expected),
                "x",
                note=f"{slices} slices, start-up included",
            ),
        ]
    return section


def _decoding(session: Session, source: object) -> dict[str, Any]:
    command = session.script("decoding.py", source, session.rounds)
    done = subprocess.run(command, check=True, env=environment(), stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


SECTIONS = {"compressed": compressed}
