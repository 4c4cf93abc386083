"""Pages of the site that are made and not written: what the code says, and pictures of the phantom.

README and ``deploy/README.md`` become pages too, so that a fact stands once.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from etl.cli import main
from etl.config import build_config, load_preset
from etl.phantom.cohort import write_cohort
from etl.read.patients import Volume, open_store
from etl.report.explain import explanations
from etl.report.histogram import draw_histogram
from etl.report.page import montage_of
from etl.run.run import run

ROOT = Path(__file__).parent.parent
SOURCES = "https://github.com/ct-etl/ct-etl/blob/main/"
# What README and pages call by its place in the repository, and where it is on the site.
PLACES = {"README.md": "index.md", "deploy/README.md": "cluster.md"}
PUBLIC = (
    ("Reading a store", ("etl.read.patients", "etl.read.volume_metadata")),
    (
        "Training",
        (
            "etl.training.crops",
            "etl.training.whole",
            "etl.training.sampler",
            "etl.training.thread_loader",
            "etl.training.split",
            "etl.training.patches",
            "etl.training.batches",
        ),
    ),
    ("Running", ("etl.run.run", "etl.config")),
    ("Errors", ("etl.errors",)),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    pages = {
        "index.md": _moved("README.md"),
        "cluster.md": _moved("deploy/README.md"),
        "command-line.md": "\n".join(_command_line()),
        "codes.md": "\n".join(_codes()),
        "python.md": "\n".join(_reference()),
    }
    for place, content in pages.items():
        files.append(File.generated(config, place, content=content))
    for place, picture in _gallery():
        files.append(File.generated(config, place, content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files of the repository to where they are on the site, or to the sources."""
    return _with_links(markdown, f"docs/{page.file.src_uri}")


def _moved(place: str) -> str:
    return _with_links((ROOT / place).read_text("utf-8"), place)


def _with_links(markdown: str, place: str) -> str:
    folder = (ROOT / place).parent

    def moved(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        path = (folder / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return found[0]
        name = path.relative_to(ROOT).as_posix()
        if name in PLACES:
            return f"]({PLACES[name]}{anchor})"
        if name.startswith("docs/") and path.is_file():
            return f"]({name.removeprefix('docs/')}{anchor})" if not place.startswith("docs/") else found[0]
        return f"]({SOURCES}{name}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)", moved, markdown)


def _command_line() -> Iterator[str]:
    yield "# Command line\n"
    yield "As `ct-etl --help` and `ct-etl COMMAND --help` say it.\n"
    top = click.Context(main, info_name="ct-etl", max_content_width=100)
    yield f"```text\n{main.get_help(top)}\n```\n"
    for name in main.list_commands(top):
        command = main.get_command(top, name)
        if command is not None:
            context = click.Context(command, info_name=f"ct-etl {name}", max_content_width=100)
            yield f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


def _codes() -> Iterator[str]:
    yield "# Codes\n"
    yield "What stands in the ledger, in the report and with a volume. `ct-etl explain CODE` says the same.\n"
    kind = ""
    for one in explanations().values():
        if one.kind != kind:
            kind = one.kind
            title, _, words = kind.partition(": ")
            yield f"## {title.capitalize()}\n\n{words.capitalize()}.\n"
        yield f"### `{one.code}`\n\n{one.meaning}\n"
        yield f"**Usual cause:** {one.cause}\n\n**What to do:** {one.remedy}\n"


def _reference() -> Iterator[str]:
    yield "# Python\n"
    yield "`etl.open_store` opens a store; `etl.training` has what PyTorch needs.\n"
    for title, modules in PUBLIC:
        yield f"## {title}\n"
        for module in modules:
            yield f"::: {module}\n    options:\n      heading_level: 3\n"


def _gallery() -> Iterator[tuple[str, bytes | str]]:
    """Run the pipeline over a phantom cohort, and show what the report shows."""
    lines = [
        "# Gallery\n",
        "Made by the build: `ct-etl phantom` writes a synthetic cohort as DICOM, `ct-etl run` brings it into a "
        "store, and these are the report's pictures of two of its volumes, one of them of a tilted gantry.\n",
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder, "dicom"), patients=3, rows=256, thin_slices=60)
        store = str(Path(folder, "s.zarr"))
        run([f"{folder}/dicom"], store, build_config(load_preset("head-ct"), {"workers": 0, "quiet": True}))
        for number, volume in enumerate(_two_volumes(store)):
            histogram = draw_histogram(volume.hu_histogram(), volume.window_hu).partition(",")[2]
            for ending, content in (("jpg", montage_of(volume).jpeg), ("svg", base64.b64decode(histogram))):
                yield f"gallery/{number}.{ending}", content
            tilt = volume.geometry.gantry_tilt_deg
            lines += [
                f"## {volume.patient_id}, {volume.key}\n",
                f"Gantry tilt {tilt:.1f} degrees; {' x '.join(map(str, volume.shape))} voxels of 1 mm; axial, "
                "brain window.\n",
                f"![Axial slices of {volume.patient_id}](gallery/{number}.jpg)\n",
                f"![Voxels per Hounsfield unit of {volume.patient_id}](gallery/{number}.svg)\n",
            ]
    yield "gallery.md", "\n".join(lines)


def _two_volumes(store: str) -> list[Volume]:
    volumes = [volume for patient in open_store(store).values() for volume in patient.values()]
    return sorted(volumes, key=lambda volume: -abs(volume.geometry.gantry_tilt_deg))[:2]
