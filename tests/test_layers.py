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

LAYERS = {
    0: {"errors", "option_rules", "config", "deadline", "quiet"},
    1: {"volume", "stack"},
    # Pure: arrays and plain values in, arrays and plain values out.
    2: {
        "hounsfield", "geometry", "resample", "grid", "validity", "normalise", "convert", "provenance", "keys",
        "fingerprint", "nodes", "quality", "repeats", "source_slices", "codestream",
    },
    # Edges: files, DICOM, Zarr, and the rules that judge headers.
    3: {
        "attributes", "identity", "headers", "assemble", "sources", "scan", "dicom", "select", "checks",
        "default_series", "incomplete", "separate", "encode", "store", "ledger", "catalogue", "stored_metadata",
        "stored", "inflate", "inventory", "lock", "deidentify", "disk", "versions", "quick_header", "montage",
    },
    4: {"plan", "process"},
    5: {"graph", "pool"},
    6: {
        "__init__", "__main__", "cli", "run", "rerun", "finish", "worker_preload",
        "tables", "progress", "read", "training", "verify", "report",
        "report_histogram", "report_words", "phantom", "phantom_acquisition",
        "phantom_attributes", "phantom_cohort", "phantom_dicom",
    },
}  # fmt: skip

HOMES = {
    "PIL": {"montage"},
    "click": {"cli"},
    # `stored` imports it where `Volume.dask` is called.
    "dask": {"graph", "stored"},
    "distributed": {"graph"},
    "imagecodecs": {"dicom"},
    "isal": {"inflate"},
    "jinja2": {"report"},
    "numcodecs": {"encode", "store"},
    "pydicom": {
        "attributes",
        "identity",
        "headers",
        "assemble",
        "scan",
        "dicom",
        "phantom_attributes",
        "phantom_dicom",
        "quick_header",
    },
    "rich": {"progress", "tables"},
    # `validity` fills padding by its distance transform.
    "scipy": {"resample", "validity"},
    "torch": {"training"},
    "zarr": {"encode", "store", "verify", "catalogue", "stored"},
}
HEAVY = (
    "bokeh",
    "click",
    "dask",
    "distributed",
    "numpy",
    "pydicom",
    "rich",
    "scipy",
    "torch",
    "zarr",
)
FILES_AND_PROCESSES = {
    "glob", "io", "multiprocessing", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "threading",
    "zipfile",
}  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}


def imported_names(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything a module imports, anywhere in it; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                yield str(node.args[0].value)


@cache
def imports_of(name: str) -> frozenset[str]:
    return frozenset(imported_names(ast.parse(MODULES[name].read_text("utf-8"))))


def own_imports(name: str) -> set[str]:
    """Modules of the package that a module imports, types and lazy imports included."""
    found = set()
    for dotted in imports_of(name):
        head, _, rest = dotted.partition(".")
        if head == "etl":
            first = rest.partition(".")[0]
            found.add(first if first in MODULES else "__init__")
    return found - {name}


def other_libraries(name: str) -> set[str]:
    heads = {dotted.partition(".")[0] for dotted in imports_of(name)}
    return {head for head in heads if head != "etl" and head not in sys.stdlib_module_names}


def test_every_module_has_one_layer_and_every_layer_its_modules() -> None:
    assert set(LAYER_OF) == set(MODULES)
    assert sum(map(len, LAYERS.values())) == len(LAYER_OF)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_its_own_or_a_lower_layer(name: str) -> None:
    upwards = {other for other in own_imports(name) if LAYER_OF[other] > LAYER_OF[name]}
    assert not upwards, f"{name} (layer {LAYER_OF[name]}) imports {sorted(upwards)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({name: own_imports(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("library", sorted(set().union(*map(other_libraries, MODULES)) - {"numpy"}))
def test_a_library_has_one_home(library: str) -> None:
    users = {name for name in MODULES if library in other_libraries(name)}
    assert users <= HOMES.get(library, set())


def test_every_home_is_lived_in() -> None:
    for library, modules in HOMES.items():
        assert modules == {name for name in MODULES if library in other_libraries(name)}, library


@pytest.mark.parametrize("name", sorted(LAYERS[2]))
def test_the_science_opens_nothing(name: str) -> None:
    assert not {dotted.partition(".")[0] for dotted in imports_of(name)} & FILES_AND_PROCESSES
    assert other_libraries(name) <= {"numpy", "scipy"}
    called = {n.func.id for n in ast.walk(ast.parse(MODULES[name].read_text("utf-8")))
              if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
    assert not called & {"open", "print", "input"}


@pytest.mark.parametrize("name", MODULES)
def test_a_name_says_more_than_that_there_is_code(name: str) -> None:
    assert not {"utils", "util", "core", "common", "helpers", "base", "manager", "misc"} & set(name.split("_"))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_fewer_than_300_lines(name: str) -> None:
    assert len(MODULES[name].read_text("utf-8").splitlines()) < 300


def loaded_by(statement: str) -> set[str]:
    """Give what an import adds in a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in done.stdout.split()}


def test_import_etl_loads_nothing_heavy() -> None:
    loaded = loaded_by("import etl")
    assert "etl" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import etl.cli", {"dask", "distributed", "pydicom", "torch", "zarr"}),
        ("import etl.read", {"dask", "distributed", "pydicom", "torch", "scipy", "zarr"}),
        ("import etl.training", {"dask", "distributed", "pydicom", "torch"}),
        ("import etl.process", {"dask", "distributed", "torch", "rich", "click"}),
    ],
    ids=["cli", "read", "training", "process"],
)
def test_a_part_loads_only_what_it_needs(statement: str, unwanted: set[str]) -> None:
    assert not loaded_by(statement) & unwanted


def test_every_name_of_the_package_is_there() -> None:
    assert all(getattr(etl, name) is not None for name in etl.__all__)
