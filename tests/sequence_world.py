"""An input that changes from run to run, the store that runs bring it into, and what is in that store."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import tiny_ct

JUNK = b"\0" * 128 + b"DICM" + b"\xff" * 40


# --- the input ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Stack:
    """One time point of one series: which slices there are, and what each of them holds."""

    patient: str
    series: int
    time_point: int | None
    number: int
    folder: Path
    hu: dict[int, int] = field(default_factory=dict)
    """By step along z; slices that are lost are not in it."""
    all_hu: dict[int, int] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    is_hidden: bool = False

    @property
    def uid(self):
        return f"{tiny_ct.ROOT}.{self.series}"

    def sop(self, k):
        return f"{self.uid}.{self.time_point or 0}.{k + 500}"

    def path(self, k):
        return self.folder / f"{k:03d}-{self.time_point or 0}.dcm"

    @property
    def ks(self):
        return sorted(set(self.hu) - self.unreadable)

    @property
    def readable(self):
        """SOP Instance UID -> CRC-32 of the pixels: what a run can know."""
        return {} if self.is_hidden else {self.sop(k): tiny_ct.checksum(self.hu[k]) for k in self.ks}

    @property
    def is_even(self):
        return bool(self.ks) and self.ks == list(range(self.ks[0], self.ks[-1] + 1))

    def write(self, k, hu, *, in_place=False):
        self.hu[k] = self.all_hu[k] = hu
        self.unreadable.discard(k)
        given = {"TemporalPositionIdentifier": self.time_point} if self.time_point else {}
        content = tiny_ct.slice_bytes(
            patient=self.patient, series=self.uid, sop=self.sop(k), k=k, hu=hu, number=self.number, **given
        )
        path = self.path(k)
        if not in_place:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            return
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        with path.open("r+b") as stream:
            stream.write(content)
        os.utime(path, ns=times)


class World:
    """An input that changes, and the store that runs bring it into."""

    def __init__(self, folder, rng):
        self.folder, self.rng = folder, rng
        self.input, self.store, self.aside = folder / "dicom", folder / "s.zarr", folder / "aside"
        self.input.mkdir(parents=True)
        self.aside.mkdir()
        self.stacks: list[Stack] = []
        self.foreign: dict[str, bytes] = {}
        self.damaged: dict[str, dict[str, int]] = {}
        """Nodes that somebody damaged, with what they held."""
        self.cut_off: set[str] = set()
        """Nodes without metadata that a kill left."""
        self.in_between: dict[str, dict[str, int]] = {}
        """Volumes that a kill caught between the old one and the new one, with what they will hold."""
        self.known: dict[str, tuple[str, int, str]] = {}
        self.count = 0
        self.story: list[str] = []

    def tell(self, what):
        self.story.append(what)

    # what happens between runs

    def change(self):
        ways = [self.grow, self.grow, self.lose, self.lose, self.spoil, self.mend, self.mend, self.edit, self.edit]
        ways += [self.swap, self.hide, self.move, self.correct, self.add, self.add, self.annotate, self.damage]
        self.rng.choice(ways)()

    def some(self, *, hidden=False):
        found = [stack for stack in self.stacks if stack.is_hidden == hidden and (hidden or stack.hu)]
        return self.rng.choice(found) if found else None

    def add(self):
        self.count += 1
        patient = f"P{self.rng.randrange(3)}"
        points = [1, 2] if self.rng.random() < 0.25 else [None]
        folder = self.input / f"s{self.count}"
        length = self.rng.randint(3, 6)
        for point in points:
            stack = Stack(patient, self.count, point, self.count, folder)
            self.stacks.append(stack)
            if point == 2 and self.rng.random() < 0.3:
                continue
            for k in range(length):
                stack.write(k, self.value())
        self.tell(f"add {patient} series {self.count}, {length} slices, time points {points}")

    def value(self):
        return self.rng.randint(-200, 400)

    def grow(self):
        stack = self.some()
        if stack is None:
            return self.add()
        at = max(stack.hu) + 1 if self.rng.random() < 0.6 else min(stack.hu) - 1
        for _ in range(self.rng.randint(1, 2)):
            stack.write(at, self.value())
            at += 1 if at > max(stack.hu) - 1 else -1
        self.tell(f"grow {stack.uid}.{stack.time_point} to {sorted(stack.hu)}")
        return None

    def lose(self):
        stack = self.some()
        if stack is None:
            return
        ks = sorted(stack.hu)
        count = self.rng.randint(1, len(ks))
        lost = self.rng.choice([ks[:count], ks[-count:], self.rng.sample(ks, 1)])
        for k in lost:
            stack.path(k).unlink()
            del stack.hu[k]
            stack.unreadable.discard(k)
        self.tell(f"lose {lost} of {stack.uid}.{stack.time_point}")

    def spoil(self):
        stack = self.some()
        if stack is None:
            return
        k = self.rng.choice(sorted(stack.hu))
        path = stack.path(k)
        if self.rng.random() < 0.5:
            path.write_bytes(JUNK)
        else:
            path.unlink()
            path.symlink_to("not-fetched")
        stack.unreadable.add(k)
        self.tell(f"spoil {k} of {stack.uid}.{stack.time_point}")

    def mend(self):
        stack = self.some()
        if stack is None:
            return
        for k, hu in list(stack.all_hu.items()):
            if k not in stack.hu or k in stack.unreadable:
                stack.write(k, hu)
        self.tell(f"mend {stack.uid}.{stack.time_point}: {sorted(stack.hu)}")

    def edit(self):
        stack = self.some()
        if stack is None or not stack.ks:
            return
        for k in self.rng.sample(stack.ks, self.rng.randint(1, len(stack.ks))):
            stack.write(k, self.value(), in_place=self.rng.random() < 0.8)
        self.tell(f"edit {stack.uid}.{stack.time_point}")

    def swap(self):
        """Two slices exchange their pixels."""
        stack = self.some()
        if stack is None or len(stack.ks) < 2:
            return
        one, other = self.rng.sample(stack.ks, 2)
        values = stack.hu[one], stack.hu[other]
        stack.write(other, values[0], in_place=True)
        stack.write(one, values[1], in_place=True)
        self.tell(f"swap {one}, {other} of {stack.uid}.{stack.time_point}")

    def hide(self):
        """A folder is not mounted, or is again."""
        hidden = self.some(hidden=True)
        stack = hidden if hidden is not None and self.rng.random() < 0.6 else self.some()
        if stack is None:
            return
        for one in self.stacks:
            if one.series == stack.series:
                one.is_hidden = not one.is_hidden
        source, target = (self.input, self.aside) if stack.is_hidden else (self.aside, self.input)
        if (source / stack.folder.name).exists():
            (source / stack.folder.name).rename(target / stack.folder.name)
        self.tell(f"{'hide' if stack.is_hidden else 'show'} {stack.uid}")

    def move(self):
        stack = self.some()
        if stack is None:
            return
        new = stack.folder.with_name(f"{stack.folder.name}x")
        stack.folder.rename(new)
        for one in self.stacks:
            if one.series == stack.series:
                one.folder = new
        self.tell(f"move {stack.uid}")

    def correct(self):
        """Somebody corrects Series Number or Patient ID."""
        stack = self.some()
        if stack is None:
            return
        patient, number = self.rng.choice(
            [(stack.patient, stack.number + 50), (f"{stack.patient}c", stack.number)]
        )
        for one in self.stacks:
            if one.series == stack.series:
                one.patient, one.number = patient, number
                for k in one.ks:
                    one.write(k, one.hu[k])
        self.tell(f"correct {stack.uid} to {patient}, {number}")

    def annotate(self):
        """Another program writes into the store."""
        nodes = nodes_of(self.store)
        if not nodes:
            return
        node = self.rng.choice(nodes)
        place = self.rng.choice([f"{node}/labels/liver/zarr.json", f"{node}/note.txt", "README.txt"])
        content = f"mine {self.rng.random()}".encode()
        target = self.store / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.foreign[place] = content
        self.tell(f"annotate {place}")

    def damage(self):
        nodes = nodes_of(self.store)
        if not nodes or self.rng.random() < 0.5:
            return
        node = self.rng.choice(nodes)
        held = look(self.store).get(node, {})
        if held:
            self.known[node] = series_of(self.store, node)
        group = self.store / node
        way = self.rng.choice(["volume", "source", "metadata", "histogram", "truncated"])
        if way == "metadata":
            (group / "zarr.json").write_text("{}")
        elif way == "truncated" and (group / "volume/c/0/0/0").is_file():
            os.truncate(group / "volume/c/0/0/0", 0)
        else:
            shutil.rmtree(group / {"histogram": "hu_histogram"}.get(way, way), ignore_errors=True)
        self.damaged.setdefault(node, held)
        self.tell(f"damage {way} of {node}")


# --- what is in the store -----------------------------------------------------------------------------------


def nodes_of(store):
    return sorted(path.parent.relative_to(store).as_posix() for path in store.glob("*/*-*/zarr.json"))


def look(store):
    """Give every published series that is whole: its slices by SOP Instance UID, with their checksums."""
    found = {}
    for node in nodes_of(store):
        try:
            arrays = json.loads((store / node / "zarr.json").read_bytes())["attributes"]["ct_etl"]["arrays"]
            is_whole = all((store / node / array / "zarr.json").stat().st_size for array in arrays)
            if is_whole and (store / node / "volume/c/0/0/0").stat().st_size:
                tiny_ct.values_of(store, node)
                found[node] = tiny_ct.slices_of(store, node)
        except (OSError, ValueError, KeyError, RuntimeError):
            continue
    return found


def series_of(store, node):
    """Give what identifies the series of a node, for those that are whole."""
    about = json.loads((store / node / "zarr.json").read_bytes())["attributes"]["ct_etl"]
    return about["patient_id"], int(node.split("/")[1].split("-")[0]), about["series_instance_uid"]


def is_at(path, nodes):
    """Whether a path is one of the nodes, or below one."""
    return any(path == node or path.startswith(f"{node}/") for node in nodes)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
