"""nnU-Net's raw folder: the names of its files, and its ``dataset.json``.

References
----------
nnU-Net, documentation/dataset_format.md: one channel a file, labels consecutive from 0 with 0 for background, the
same names in all cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etl.errors import UsageError
from etl.export.image_files import NIFTI
from etl.read.patients import Volume

FOLDER = re.compile(r"Dataset[0-9]{3}_\w[\w-]*")
BACKGROUND = "background"


def check_folder(out: Path) -> None:
    """Refuse a folder that nnU-Net would not find.

    Raises
    ------
    UsageError
    """
    if not FOLDER.fullmatch(out.name):
        raise UsageError(
            f"out {out.name!r}: nnU-Net looks for a folder named DatasetNNN_NAME, such as Dataset001_Head"
        )


def case_of(volume: Volume) -> str:
    """Give the name of a case: what no other volume of the store has."""
    return volume.node.replace("/", "__")


def consecutive_labels(volumes: Sequence[Volume], name: str) -> tuple[dict[str, int], dict[str, dict[int, int]]]:
    """Give the structures of a label numbers that are the same in all volumes, by their names.

    A value may stand for one structure in one volume and for another in the next, as Segment Numbers do. What has
    no name is called ``label_N`` by its value.

    Parameters
    ----------
    volumes : sequence of Volume
        All have the label.
    name : str

    Returns
    -------
    dict
        Number by name, the background first.
    dict
        By `Volume.node` the number of each value.
    """
    tables: dict[str, dict[int, str]] = {}
    for volume in volumes:
        named = {value: str(about.get("name") or "") for value, about in volume.label_table(name).items() if value}
        if not named:
            named = {int(value): "" for value in np.unique(volume.label_values(name)) if value}
        tables[volume.node] = {value: text or f"label_{value}" for value, text in named.items()}
    first = {text: value for table in reversed(tables.values()) for value, text in table.items()}
    ordered = sorted(first, key=lambda text: (first[text], text))
    numbers = {BACKGROUND: 0, **{text: n for n, text in enumerate(ordered, start=1)}}
    if BACKGROUND in first or not ordered:
        raise UsageError(f"label {name!r}: a structure is named {BACKGROUND!r}, or none has a voxel")
    return numbers, {node: {v: numbers[text] for v, text in table.items()} for node, table in tables.items()}


def dataset_json(labels: Mapping[str, int], cases: int) -> str:
    """Give ``dataset.json``."""
    about: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": dict(labels),
        "numTraining": cases,
        "file_ending": NIFTI,
    }
    return json.dumps(about, indent=2, ensure_ascii=True) + "\n"


def mapping_json(label: str, values: Mapping[str, Mapping[int, int]]) -> str:
    """Give a record of what the values of each case became."""
    cases = {
        node: {str(value): number for value, number in sorted(one.items())} for node, one in sorted(values.items())
    }
    return json.dumps({"label": label, "values": cases}, indent=2, ensure_ascii=True) + "\n"
