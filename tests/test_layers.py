"""Imports go one way: the table of layers, the home of each library, and what ``import etl`` loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import etl

PACKAGE = Path(etl.__file__).parent

# A module may import its own package and what stands in an earlier row.
LAYERS = (
    {"codes", "transfer_syntaxes", "digests", "option_rules", "header", "shards"},
    {"errors", "entry", "stack"},
    {"buckets", "config", "software"},
    {"volume", "dicom", "phantom"},
    {"store", "workers", "read"},
    {"scan", "report", "view"},
    {"plan"},
    {"process"},
    {"labels", "export"},
    {"run", "training", "etl"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
# Where each library lives: packages, or single modules of one.
HOMES = {
    # What `Volume.to_sitk` and its like give.
    **{name: {"read.bridges"} for name in ("SimpleITK", "itk", "monai", "torchio", "xarray")},
    "nibabel": {"labels", "read.bridges"},
    "nrrd": {"export", "labels"},
    "PIL": {"report.montage", "view.pictures"},
    "click": {"cli", "commands"},
    "cryptography": {"workers.certificate"},
    # `stored_volume` imports it where `Volume.dask` is called.
    "dask": {"workers.connect", "workers.dask_pool", "workers.local_cluster", "read.stored_volume", "run.doctor"},
    "distributed": {
        *(
            f"workers.{name}"
            for name in (
                "calls",
                "certificate",
                "connect",
                "dask_pool",
                "fleet",
                "local_cluster",
                "questions",
            )
        ),
        "run.doctor",
    },
    # By which zarr reads URLs.
    "fsspec": {"read.catalog", "read.stored_bytes"},
    "google_crc32c": {"shards"},
    "imagecodecs": {"dicom.pixels", "dicom.decoder_check"},
    "isal": {"dicom"},
    "jinja2": {"report.page", "view.app"},
    "obstore": {"buckets"},
    "numcodecs": {"store", "read.shard_reader"},
    # `prediction` makes a DICOM SEG of the headers of the slices.
    "highdicom": {"labels"},
    "pandas": {"read.patients"},
    "pydicom": {"dicom", "scan", "phantom", "labels"},
    "rich": {"workers.progress"},
    # `validity` fills padding by its distance transform; `padding` tells connected areas.
    "scipy": {"volume.padding", "volume.place_segment", "volume.segment_field", "volume.validity"},
    # Dask's web server.
    "tornado": {"workers.local_cluster"},
    "torch": {"read.bridges", "training"},
    "zarr": {"store", "read"},
}
# The public face of each package: the modules that other parts of the house may import.
FACES = {
    "buckets": "bucket connecting urls",
    "shards": "layout",
    "volume": "body contours convert geometry grid hounsfield normalize padding patient_space place_segment "
    "plane_masks quality segment_field slice_weights spline",
    "dicom": "attributes containers decoder_check fast_header frames header_parser "
    "identifiers inflate instants pixels rescale_types sources",
    "phantom": "cohort labels",
    "export": "export",
    "labels": "find label_entry label_series names prediction source_mask survey tables",
    "store": "durable encoding fingerprint finish keys label_encoding labels layout "
    "lock metadata node_names patient_labels publish root series_nodes source_map verify",
    "workers": "fitness pool progress stop_signals time_limit",
    "read": "catalog facts optional_library patients stored_array stored_bytes table verdicts",
    "scan": "deidentify distinctions inputs packed_scan scan",
    "report": "explain montage page",
    "plan": "checks masks plan repeats series_keys task",
    "process": "attributes compare read_hu series source_arrays",
    "run": "doctor label ledger rerun run run_dir summaries terminal verify_input verify_labels",
    "training": "",
    "commands": "output",
    "view": "app server verdict_file",
}
HEAVY = {"bokeh", "click", "dask", "distributed", "numpy", "pydicom", "rich", "scipy", "torch", "zarr"}
LOADS_NONE_OF = {
    "etl": HEAVY,
    "etl.cli": {"dask", "distributed", "pydicom", "torch", "zarr"},
    "etl.read.patients": {"dask", "distributed", "pydicom", "torch", "scipy", "zarr"},
    "etl.training": {"dask", "distributed", "pydicom", "torch"},
    "etl.process.series": {"dask", "distributed", "torch", "rich", "click"},
}
FILES_AND_PROCESSES = {
    *("glob", "io", "multiprocessing", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "threading"),
    "zipfile",
}
# A face that users import from: its names are loaded when they are asked for.
PUBLIC_FACES = {"training"}
SAYS_NOTHING = {"utils", "util", "core", "common", "helpers", "base", "manager", "misc"}
MAX_MODULE_LINES = 300
MAX_TOP_LEVEL_FILES = 14

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
}
PACKAGES = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}


def room_of(module: str) -> str:
    """Package of a module, or the module itself where it lies at the top."""
    return "etl" if module == "__init__" else module.partition(".")[0]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def imported_names(module: str) -> Iterator[str]:
    """Dotted names of everything a module imports, anywhere in it; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__", "optional_library"}:
                yield str(node.args[0].value)


def own_imports(module: str) -> set[str]:
    """Modules of the package that a module imports, types and lazy imports included."""
    found = set()
    for dotted in imported_names(module):
        head, _, rest = dotted.partition(".")
        if head == "etl":
            parts = rest.split(".")
            longest = next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in MODULES), "__init__")
            found.add(longest)
    return found - {module}


def other_libraries(module: str) -> set[str]:
    heads = {dotted.partition(".")[0] for dotted in imported_names(module)}
    return {head for head in heads if head != "etl" and head not in sys.stdlib_module_names}


def test_every_part_of_the_house_has_one_layer() -> None:
    assert {room_of(module) for module in MODULES} == set(LAYER_OF)
    assert sum(map(len, LAYERS)) == len(LAYER_OF)
    assert len([name for name in MODULES if "." not in name]) <= MAX_TOP_LEVEL_FILES


def test_imports_lead_down() -> None:
    upwards = {
        (module, room_of(other))
        for module in MODULES
        for other in own_imports(module)
        if room_of(other) != room_of(module) and LAYER_OF[room_of(other)] >= LAYER_OF[room_of(module)]
    }
    assert not upwards


def test_only_the_face_of_a_package_is_imported_from_elsewhere() -> None:
    seen: dict[str, set[str]] = {name: set() for name in PACKAGES if name in LAYER_OF}
    for module in MODULES:
        for other in own_imports(module):
            if "." in other and room_of(other) != room_of(module):
                seen[room_of(other)].add(other.partition(".")[2])
    assert {name: " ".join(sorted(modules)) for name, modules in seen.items()} == FACES


def test_no_private_name_leaves_its_module() -> None:
    taken = {
        (module, dotted)
        for module in MODULES
        for dotted in imported_names(module)
        if dotted.startswith("etl.") and dotted.rpartition(".")[2].startswith("_") and not dotted.endswith("__")
    }
    assert not taken


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({name: own_imports(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_a_package_says_what_it_is_for_and_imports_nothing() -> None:
    for name, path in PACKAGES.items():
        tree = ast.parse(path.read_text("utf-8"))
        assert ast.get_docstring(tree), name
        if name in PUBLIC_FACES:
            continue
        assert len(tree.body) == 1, f"{name}: a docstring is all"


def test_a_library_has_one_home_and_every_home_is_lived_in() -> None:
    users: dict[str, set[str]] = {}
    for module in MODULES:
        for library in other_libraries(module) - {"numpy"}:
            homes = HOMES.get(library, set())
            users.setdefault(library, set()).add(module if module in homes else room_of(module))
    assert users == HOMES


def test_the_science_opens_nothing() -> None:
    for module in (name for name in MODULES if room_of(name) == "volume"):
        assert not {dotted.partition(".")[0] for dotted in imported_names(module)} & FILES_AND_PROCESSES, module
        assert other_libraries(module) <= {"numpy", "scipy"}, module
        called = {n.func.id for n in ast.walk(tree_of(module))
                  if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
        assert not called & {"open", "print", "input"}, module


def test_a_module_is_short_and_its_name_says_something() -> None:
    for module, path in MODULES.items():
        assert not SAYS_NOTHING & set(module.replace(".", "_").split("_")), module
        assert len(path.read_text("utf-8").splitlines()) <= MAX_MODULE_LINES, module


def test_a_part_loads_only_what_it_needs() -> None:
    for module, unwanted in LOADS_NONE_OF.items():
        code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = {name.partition(".")[0] for name in done.stdout.split()}
        assert "etl" in loaded
        assert not loaded & unwanted, module


def test_every_public_name_is_there() -> None:
    assert all(getattr(etl, name) is not None for name in etl.__all__)
