"""Names of labels: the first source of a name has it, the others have digits of their digest behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from string import hexdigits

from etl.labels.label_series import LabelTask
from etl.store.keys import Keys
from etl.store.labels import published_labels
from etl.store.layout import LABELS, METADATA

SUFFIX_DIGITS = 8
MOST_LAYER_DIGITS = 4


def name_apart(tasks: Iterable[LabelTask], keys: Keys) -> list[LabelTask]:
    """Give labels of one name and one series names of their own; a source keeps the name that it has in the store.

    Of new ones the first by digest has the plain name, whatever the order of the files. What another program left
    under a name keeps it.
    """
    ordered = sorted(tasks, key=lambda task: (task.node, task.source_digest, task.source.path))
    owners = {task.node: _owners(keys, task.node) for task in ordered}
    named = []
    for task in ordered:
        names = owners[task.node]
        taken = [name for name, owner in names.items() if owner != task.source_id]
        name = task.name
        own = [one for one, owner in names.items() if owner == task.source_id and _is_apart(one, name)]
        # Of two sources with one name the first may be gone: the second keeps the name that it was given then.
        if own and name not in names:
            name = own[0]
        elif any(one == name or _is_layer(one, name) for one in taken):
            name = own[0] if own else f"{name}-{task.source_digest[:SUFFIX_DIGITS]}"
        names[name] = task.source_id
        named.append(replace(task, name=name))
    return named


def _is_apart(name: str, base: str) -> bool:
    """Whether a name is that of a further source of another one."""
    digits = name.removeprefix(f"{base}-")
    return digits != name and len(digits) == SUFFIX_DIGITS and set(digits) <= set(hexdigits)


def _owners(keys: Keys, node: str) -> dict[str, str]:
    """Source of each label that is there; empty for what is not ours. What a killed run left has no owner."""
    place = f"{node}/{LABELS}"
    there = {name: "" for name in keys.groups(place) if keys.get(f"{place}/{name}/{METADATA}") is not None}
    return there | {name: str(one.get("source_id", "")) for name, one in published_labels(keys, node).items()}


def _is_layer(name: str, base: str) -> bool:
    """Whether a name is that of a further array of another one."""
    number = name.removeprefix(f"{base}-")
    return number != name and number.isdigit() and len(number) <= MOST_LAYER_DIGITS
