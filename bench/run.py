"""Measure this project beside other programs; print one table and write every measurement to a JSON file.

Figures are CPU seconds (user + system, children included), page cache warm, unless a row says otherwise.
Commands take turns, so a machine that drifts slows them alike; what is shown is the median over the rounds. Each
section stands alone (``--only``) and replaces its own part of the results file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import against
import compressed
import footprint
import scale
import training
from measure import ROOT, CommandError
from session import Session
from table import Section, load, markdown, merge, text_lines

SECTIONS: dict[str, Callable[[Session], Section]] = {
    **against.SECTIONS,
    **footprint.SECTIONS,
    **scale.SECTIONS,
    **compressed.SECTIONS,
    **training.SECTIONS,
}
PEERS = ROOT / ".venv-peers/bin/python"


def main() -> int:
    """Run the sections asked for; 1 if one of them broke."""
    options = _options()
    if options.markdown:
        print(markdown(load(options.json), list(SECTIONS)))
        return 0
    broken = 0
    with tempfile.TemporaryDirectory(prefix="ct-etl-bench-", dir=options.scratch) as scratch:
        session = _session(options, Path(scratch))
        for name in options.only:
            print(f"--- {name}", flush=True)
            try:
                section = SECTIONS[name](session)
            except (CommandError, subprocess.CalledProcessError) as error:
                broken += 1
                print(f"{name} is not measured: {error}", file=sys.stderr)
                continue
            if options.quick:
                # The targets are for the full sizes; start-up and noise outweigh the small ones.
                section.rows = [replace(row, target=None) for row in section.rows]
            merge(options.json, name, section, session.describe())
            print("\n".join(text_lines(section.rows)), flush=True)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_names, default=list(SECTIONS), help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, help="turns of each command  [5; quick: 1]")
    parser.add_argument("--series", type=int, help="series that start-up is spread over  [20; quick: 4]")
    parser.add_argument(
        "--slow-series", type=int, help="series a slow program converts a round  [4; quick: 2; at least 2]"
    )
    parser.add_argument("--slices", type=int, help="slices 512x512 of a series  [256; quick: 64]")
    parser.add_argument("--planned", type=int, help="series of the section driver  [1000; quick: 100]")
    parser.add_argument(
        "--quick", action="store_true", help="small and few, only to see that it works: no verdicts"
    )
    parser.add_argument("--input", type=Path, help="folder of patients with --slices slices each, made before")
    parser.add_argument(
        "--peers", type=Path, default=PEERS, help="interpreter with the peers  [.venv-peers, if made]"
    )
    parser.add_argument("--scratch", type=Path, help="where inputs and stores go  [the system's temporary folder]")
    parser.add_argument("--json", type=Path, default=ROOT / "bench/results.json", help="results file")
    parser.add_argument(
        "--markdown", action="store_true", help="only print the results file as the README's table"
    )
    options = parser.parse_args()
    for name, full, quick in (
        ("rounds", 5, 1),
        ("series", 20, 4),
        ("slow_series", 4, 2),
        ("slices", 256, 64),
        ("planned", 1000, 100),
    ):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def _names(given: str) -> list[str]:
    unknown = set(given.split(",")) - set(SECTIONS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: allowed are {', '.join(SECTIONS)}")
    return given.split(",")


def _session(options: argparse.Namespace, scratch: Path) -> Session:
    return Session(
        scratch=scratch,
        rounds=options.rounds,
        series=options.series,
        slow_series=max(2, min(options.slow_series, options.series)),
        slices=options.slices,
        planned_series=options.planned,
        quick=options.quick,
        # Without an environment of theirs, perhaps some of them are installed beside this project.
        peers=options.peers if options.peers.exists() else Path(sys.executable),
        given=options.input,
    )


if __name__ == "__main__":
    sys.exit(main())
