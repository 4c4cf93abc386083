"""What lies in a store's folder, told apart: published series, unfinished ones, and what is not ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from etl.store.durable import is_partial
from etl.store.layout import METADATA, is_own_key
from etl.store.node_names import is_series_key


@dataclass(frozen=True)
class Inventory:
    """Paths in a store, relative to it.

    Parameters
    ----------
    published : tuple of str
        ``<patient key>/<series key>`` with metadata.
    unfinished : tuple of str
        The same without: a publication that a crash cut off. Can be made again from the input.
    partial : tuple of str
        Files that a crash left half written.
    foreign : tuple of str
        Anything else; never touched.
    """

    published: tuple[str, ...]
    unfinished: tuple[str, ...]
    partial: tuple[str, ...]
    foreign: tuple[str, ...]


def take_inventory(store: Path) -> Inventory:
    """Look at every file and folder of a store."""
    published: list[str] = []
    unfinished: list[str] = []
    partial: list[str] = []
    foreign: list[str] = []
    for patient in sorted(store.iterdir()):
        if not _is_folder(patient):
            _sort_file(patient, store, partial, foreign)
            continue
        for series in sorted(patient.iterdir()):
            name = series.relative_to(store).as_posix()
            if not _is_folder(series):
                _sort_file(series, store, partial, foreign)
            elif not is_series_key(series.name):
                foreign.append(name)
            else:
                (published if (series / METADATA).is_file() else unfinished).append(name)
                _sort_inside(series, store, partial, foreign)
    return Inventory(tuple(published), tuple(unfinished), tuple(partial), tuple(foreign))


def sort_keys(names: Iterable[str]) -> Inventory:
    """Tell apart the keys of a store that has no folders.

    Parameters
    ----------
    names : iterable of str
        Every key, relative to the store.
    """
    inside: dict[str, set[str]] = {}
    foreign: list[str] = []
    for name in sorted(names):
        parts = name.split("/")
        if len(parts) > 2 and is_series_key(parts[1]):
            inside.setdefault("/".join(parts[:2]), set()).add("/".join(parts[2:]))
        elif not (parts[-1] == METADATA and len(parts) <= 2):
            foreign.append(name)
    for node, keys in inside.items():
        foreign += [f"{node}/{key}" for key in keys if not is_own_key(key)]
    return Inventory(
        tuple(node for node, keys in inside.items() if METADATA in keys),
        tuple(node for node, keys in inside.items() if METADATA not in keys),
        (),
        tuple(sorted(foreign)),
    )


def _is_folder(path: Path) -> bool:
    """Whether it is a folder of the store's own: no link is ever made here."""
    return path.is_dir() and not path.is_symlink()


def _sort_file(path: Path, store: Path, partial: list[str], foreign: list[str]) -> None:
    if is_partial(path.name):
        partial.append(path.relative_to(store).as_posix())
    elif path.name != METADATA:
        foreign.append(path.relative_to(store).as_posix())


def _sort_inside(series: Path, store: Path, partial: list[str], foreign: list[str]) -> None:
    for path in sorted(series.rglob("*")):
        if _is_folder(path):
            continue
        if is_partial(path.name):
            partial.append(path.relative_to(store).as_posix())
        elif not is_own_key(path.relative_to(series).as_posix()):
            foreign.append(path.relative_to(store).as_posix())
