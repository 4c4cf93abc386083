"""Draw sequences of `run`, `label` and `verify --repair`, hold labels: ``python tests/label_sequences.py``.

Between them volumes get another grid, masks change, labels are harmed, others write beside them; each may be
killed at a random step on the disk. The model knows what was on which series before. In the end the labels must be
those of a store that is made at once.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path

import tiny_ct
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from sequences import draw_sequences, killed_after, let_locks_be_of_the_dead

from etl.config import build_config
from etl.digests import json_digest
from etl.run.label import LabelOptions, label
from etl.run.run import run
from etl.store.keys import LocalKeys
from etl.store.lock import store_lock
from etl.store.verify import repair, verify_store

SERIES = {"P": f"{tiny_ct.ROOT}.1", "Q": f"{tiny_ct.ROOT}.2"}


def squares(version):
    """Two squares, mm: of every third version they overlap and need an array each."""
    edge = 35 + 10 * (version % 5)
    return [(5, edge), (edge - 10 if version % 3 == 0 else edge + 20, edge + 60)]


def structure_set(uid, series, version, ks):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = Dataset()
    found.file_meta = meta
    found.SOPClassUID, found.SOPInstanceUID, found.Modality = RTStructureSetStorage, uid, "RTSTRUCT"
    referenced, study, space = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [referenced]
    space.FrameOfReferenceUID, space.RTReferencedStudySequence = f"{series}.8", [study]
    found.ReferencedFrameOfReferenceSequence = [space]
    found.StructureSetROISequence, found.ROIContourSequence = [], []
    for number, (low, high) in enumerate(squares(version), start=1):
        roi, row = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, f"version {version}"
        found.StructureSetROISequence.append(roi)
        row.ReferencedROINumber, row.ContourSequence = number, []
        for k in ks:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
            corners = ((low, low), (high, low), (high, high), (low, high))
            contour.ContourData = [str(v) for x, y in corners for v in (x, y, k * tiny_ct.STEP_MM)]
            row.ContourSequence.append(contour)
        found.ROIContourSequence.append(row)
    return found


class World:
    """Two series, masks of them, and the store that both are brought into."""

    def __init__(self, folder, rng):
        self.folder, self.rng = folder, rng
        self.dicom, self.masks, self.store = folder / "dicom", folder / "masks", folder / "s.zarr"
        self.masks.mkdir(parents=True)
        self.ks = dict.fromkeys(SERIES, range(4, 9))
        self.versions: dict[str, tuple[str, int]] = {}
        """Patient and version of each mask, by the stem of its file."""
        self.foreign: dict[str, bytes] = {}
        self.harmed: set[tuple[str, str]] = set()
        self.story: list[str] = []
        self.left_out: list[str] = []
        """Volumes that the last run left out of the store's metadata, or that failed: nobody harms any."""
        self.found_by_verify: set[str] = set()
        for patient in SERIES:
            self.scan(patient)
        self.draw("1", "P", 0)

    def tell(self, what):
        self.story.append(what)

    # what happens between commands

    def scan(self, patient):
        tiny_ct.write_series(
            self.dicom / patient,
            patient,
            series=SERIES[patient],
            ks=self.ks[patient],
            # A mask whose series is not there goes to what shares its space: no two patients do.
            FrameOfReferenceUID=f"{SERIES[patient]}.8",
        )

    def draw(self, stem, patient, version):
        self.versions[stem] = patient, version
        found = structure_set(f"{tiny_ct.ROOT}.7.{stem}", SERIES[patient], version, range(5, 8))
        found.save_as(self.masks / f"{stem}.dcm", enforce_file_format=True)
        self.tell(f"mask {stem} on {patient}, version {version}")

    def change(self):
        self.rng.choice([self.grow, self.redraw, self.redraw, self.add, self.harm, self.annotate])()

    def grow(self):
        patient = self.rng.choice(list(SERIES))
        ks = self.ks[patient]
        self.ks[patient] = self.rng.choice([range(ks.start - 1, ks.stop), range(ks.start, ks.stop + 1)])
        self.scan(patient)
        self.tell(f"grow {patient}: {self.ks[patient]}")

    def redraw(self):
        stem = self.rng.choice(sorted(self.versions))
        patient, version = self.versions[stem]
        self.draw(stem, patient, version + self.rng.randint(1, 3))

    def add(self):
        if len(self.versions) < 4:
            self.draw(str(len(self.versions) + 1), self.rng.choice(list(SERIES)), self.rng.randrange(9))

    def harm(self):
        found = sorted(self.store.glob("*/*/labels/*/0/c/0/0/0"))
        if not found:
            return
        shard = self.rng.choice(found)
        about = provenance(shard.parents[4])
        if about is None:
            return
        node = shard.parents[6].relative_to(self.store).as_posix()
        self.harmed.add((node, about["source_id"]))
        way = self.rng.choice(["byte", "lost", "array", "list"])
        if way == "byte":
            content = bytearray(shard.read_bytes())
            content[-1] ^= 1
            shard.write_bytes(content)
        elif way == "lost":
            shard.unlink()
        elif way == "array":
            (shard.parents[3] / "zarr.json").unlink(missing_ok=True)
        else:
            (shard.parents[5] / "zarr.json").unlink(missing_ok=True)
        self.tell(f"harm {way} of {shard.relative_to(self.store)}")

    def annotate(self):
        nodes = sorted(path.parent for path in self.store.glob("*/*-*/zarr.json"))
        if nodes:
            place = self.rng.choice(["labels/liver/zarr.json", "labels/rtstruct/note.txt", "labels/note.txt"])
            target = self.rng.choice(nodes) / place
            content = f"mine {self.rng.random()}".encode()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            self.foreign[target.relative_to(self.store).as_posix()] = content
            self.tell(f"annotate {target.relative_to(self.store)}")

    def foreign_problems(self):
        return [
            f"{place} is not what others wrote"
            for place, content in self.foreign.items()
            if not (self.store / place).is_file() or (self.store / place).read_bytes() != content
        ]

    # commands

    def run(self, **options):
        config = build_config({}, {"native": True, "workers": 0, "quiet": True, "min_slices": 2, **options})
        result = run([str(self.dicom)], str(self.store), config)
        going_on(result)
        self.left_out = [f"{node} is left out" for node in result.totals["damaged"]]
        self.left_out += [
            f"{one.node}: {one.reason} {one.detail}" for one in result.entries if one.outcome == "failed"
        ]

    def label(self, stems):
        config = build_config({"native": True}, {"workers": 0, "quiet": True})
        sources = [str(self.masks / f"{one}.dcm") for one in stems]
        return going_on(label(str(self.store), sources, LabelOptions(config=config)))

    def repair(self):
        with store_lock(str(self.store)):
            LocalKeys(str(self.store)).clear_leftovers()
            repair(str(self.store), verify_store(str(self.store))[1])


def going_on(result):
    """Give a result, unless a signal ended what gave it: that one is for this program."""
    if result.stopped is not None:
        raise result.stopped
    return result


def provenance(group):
    try:
        return json.loads((group / "zarr.json").read_bytes())["attributes"]["ct_etl"]["provenance"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def held(store):
    """Give what labels there are: by series and mask, a list of layers, each with what it was made of."""
    found: dict[tuple[str, str], list[dict]] = {}
    for group in sorted(store.glob("*/*/labels/*")):
        about = provenance(group)
        if about is not None:
            node = group.parents[1].relative_to(store).as_posix()
            found.setdefault((node, about["source_id"]), []).append(about)
    return found


def after_recovery(store):
    """Give what the store holds once the next command has begun; nothing is touched."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (store, *store.parent.glob(f".{store.name}.*.ready")):
            if path.exists():
                shutil.copytree(path, Path(folder, path.name))
        LocalKeys(str(Path(folder, store.name))).clear_leftovers()
        return held(Path(folder, store.name))


def is_one_version(layers):
    numbers = sorted(one["layer"] for one in layers)
    return (
        numbers == list(range(1, layers[0]["layers"] + 1)) and len({one["source_digest"] for one in layers}) == 1
    )


def digests(layers):
    return json_digest(sorted((one["layer"], one["label_digest"], one["grid_digest"]) for one in layers))


def lost(world, what, before, now):
    """Say which labels of before a command lost or changed that it may not, and which are no whole ones."""
    bad = {path for path in world.found_by_verify if "/labels" in path} if what == "repair" else set()
    for key, layers in before.items():
        # Repair removes what lies on another grid, too.
        if what == "overwrite" or key in world.harmed or any(path.startswith(key[0]) for path in bad):
            continue
        if key not in now:
            yield f"{key} is lost"
        elif what != "label" and digests(now[key]) != digests(layers):
            yield f"{key} changed"
    for key, layers in now.items():
        if not is_one_version(layers) and key not in world.harmed and what != "repair":
            yield f"{key} is of several versions, or lacks layers: {layers}"


def one_step(world, *, may_kill):
    """Do one command; give what is wrong afterwards."""
    rng = world.rng
    what = rng.choice(["run", "label", "label", "label", "repair", "overwrite"])
    if not (world.store / "zarr.json").exists():
        # An --overwrite was killed between the old store and the new one; only a run goes on from there.
        what = "run"
    stems = sorted(rng.sample(sorted(world.versions), rng.randint(1, len(world.versions))))
    work = {
        "run": world.run,
        "label": lambda: world.label(stems),
        "repair": world.repair,
        "overwrite": lambda: world.run(overwrite=True),
    }[what]
    before = held(world.store)
    if what == "repair":
        world.found_by_verify = {finding.path for finding in verify_store(str(world.store))[1]}
    steps = int(rng.expovariate(1 / 40)) if may_kill and rng.random() < 0.5 else 10**9
    world.tell(f"{what} {stems if what == 'label' else ''}, killed after {steps}")
    world.left_out = []
    is_killed = killed_after(steps, work)
    problems = list(world.left_out)
    if is_killed:
        world.tell("killed")
        let_locks_be_of_the_dead(world.folder)
        if rng.random() < 0.5:
            LocalKeys(str(world.store)).clear_leftovers()
    else:
        problems += [f"left over: {path.name}" for path in world.folder.glob(".s.zarr.*")]
    now = after_recovery(world.store)
    problems += lost(world, what, before, now)
    if what == "overwrite":
        world.foreign.clear()
        world.harmed.clear()
    if what == "repair":
        world.harmed |= {key for key, layers in now.items() if not is_one_version(layers)}
    return problems + world.foreign_problems()


def failures(result):
    return [f"{one.source}: {one.reason} {one.detail}" for one in result.entries if one.outcome == "failed"]


def ends_well(world):
    """A last run and label, neither killed: the labels are those of a store that is made at once."""
    world.run()
    problems = failures(world.label(world.versions))
    world.repair()
    world.label(world.versions)
    problems += [
        f"verify: {finding.path}: {finding.problem}"
        for finding in verify_store(str(world.store))[1]
        if not finding.problem.startswith("not written by ct-etl")
    ]
    once = World.__new__(World)
    once.__dict__.update({**vars(world), "store": world.folder / "once.zarr"})
    once.run()
    problems += once.left_out
    problems += failures(once.label(world.versions))
    found, wanted = held(world.store), held(once.store)
    if {key: digests(layers) for key, layers in found.items()} != {k: digests(v) for k, v in wanted.items()}:
        problems.append(f"labels {found} are not those of a store made at once {wanted}")
    return problems


def one_sequence(folder, seed, *, may_kill=True):
    """Draw and hold one sequence; give its story and what is wrong."""
    rng = random.Random(seed)
    world = World(Path(folder), rng)
    world.run()
    world.label(["1"])
    for _ in range(rng.randint(3, 7)):
        for _ in range(rng.randint(0, 2)):
            world.change()
        problems = one_step(world, may_kill=may_kill)
        if problems:
            return world.story, problems
    return world.story, ends_well(world)


if __name__ == "__main__":
    draw_sequences(__doc__, one_sequence)
