"""What lies in a store's folder, told apart: published series, unfinished ones, and what is not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from etl.store.durable import is_partial, read_if_there
from etl.store.layout import LABELS, METADATA, is_label_key, is_own_key
from etl.store.metadata import is_own_label, parsed
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
    unfinished_labels : tuple of str
        ``<patient key>/<series key>/labels/<name>`` without metadata: the same, by ``ct-etl label``.
    """

    published: tuple[str, ...]
    unfinished: tuple[str, ...]
    partial: tuple[str, ...]
    foreign: tuple[str, ...]
    unfinished_labels: tuple[str, ...] = ()


def take_inventory(store: Path) -> Inventory:
    """Look at every file and folder of a store."""
    published: list[str] = []
    unfinished: list[str] = []
    partial: list[str] = []
    foreign: list[str] = []
    labels: list[str] = []
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
                labels += _sort_inside(series, store, partial, foreign)
    return Inventory(tuple(published), tuple(unfinished), tuple(partial), tuple(foreign), tuple(labels))


def sort_keys(names: Iterable[str], get: Callable[[str], bytes | None]) -> Inventory:
    """Tell apart the keys of a store that has no folders.

    Parameters
    ----------
    names : iterable of str
        Every key, relative to the store.
    get : callable
        Reads a key: whose a label is stands in its metadata.
    """
    inside: dict[str, set[str]] = {}
    foreign: list[str] = []
    labels: list[str] = []
    for name in sorted(names):
        parts = name.split("/")
        if len(parts) > 2 and is_series_key(parts[1]):
            inside.setdefault("/".join(parts[:2]), set()).add("/".join(parts[2:]))
        elif not (parts[-1] == METADATA and len(parts) <= 2):
            foreign.append(name)
    for node, keys in inside.items():
        own, unfinished = _labels(node, keys, get)
        labels += unfinished
        foreign += [f"{node}/{key}" for key in keys if not is_own_key(key) and key not in own]
    return Inventory(
        tuple(node for node, keys in inside.items() if METADATA in keys),
        tuple(node for node, keys in inside.items() if METADATA not in keys),
        (),
        tuple(sorted(foreign)),
        tuple(labels),
    )


def _is_folder(path: Path) -> bool:
    """Whether it is a folder of the store's own: no link is ever made here."""
    return path.is_dir() and not path.is_symlink()


def _sort_file(path: Path, store: Path, partial: list[str], foreign: list[str]) -> None:
    if is_partial(path.name):
        partial.append(path.relative_to(store).as_posix())
    elif path.name != METADATA:
        foreign.append(path.relative_to(store).as_posix())


def _sort_inside(series: Path, store: Path, partial: list[str], foreign: list[str]) -> list[str]:
    """Sort the files of a series; give the labels that were being published."""
    files = [path.relative_to(series).as_posix() for path in sorted(series.rglob("*")) if not _is_folder(path)]
    node = series.relative_to(store).as_posix()
    own, unfinished = _labels(node, files, lambda key: read_if_there(store / key))
    for key in files:
        if is_partial(key.rpartition("/")[2]):
            partial.append(f"{node}/{key}")
        elif not is_own_key(key) and key not in own:
            foreign.append(f"{node}/{key}")
    return unfinished


def _labels(node: str, keys: Iterable[str], get: Callable[[str], bytes | None]) -> tuple[set[str], list[str]]:
    """Keys of the labels that this package wrote on a series, and the labels of which only a part is there."""
    inside: dict[str, set[str]] = {}
    for key in keys:
        parts = key.split("/", 2)
        if parts[0] == LABELS and len(parts) == 3:
            inside.setdefault(parts[1], set()).add(parts[2])
    own: set[str] = set()
    unfinished = []
    for name, found in sorted(inside.items()):
        label = f"{node}/{LABELS}/{name}"
        is_unfinished = METADATA not in found and any(map(is_label_key, found))
        if is_unfinished or is_own_label(parsed(get(f"{label}/{METADATA}"))):
            own |= {f"{LABELS}/{name}/{key}" for key in found if is_label_key(key)}
            unfinished += [label] if is_unfinished else []
    # Of the list of labels that another program made, nothing is ours.
    return own | ({f"{LABELS}/{METADATA}"} if own else set()), unfinished
