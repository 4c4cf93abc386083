"""The order of crops: epochs, ranks, workers, threads, and going on after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import UsageError
from etl.training import CropDataset, CropSampler, ThreadLoader, collate, split_patients

torch = pytest.importorskip("torch", reason="PyTorch is an optional extra")


@pytest.fixture
def dataset(store_path) -> CropDataset:
    return CropDataset(store_path, (3, 3, 3), crops_per_volume=7, series="all")


def crops(loader) -> list[tuple]:
    """What came, batch by batch: enough to tell every crop from every other."""
    return [
        (*zip(batch["series_key"], batch["start"].tolist(), strict=True), float(batch["image"].sum()))
        for batch in loader
    ]


def loaders(dataset, sampler) -> dict:
    loader = torch.utils.data.DataLoader
    options = {"batch_size": 4, "sampler": sampler, "collate_fn": collate}
    return {
        "threads": ThreadLoader(dataset, 4, sampler=sampler),
        "none": loader(dataset, **options),
        "two workers": loader(dataset, num_workers=2, **options),
    }


def test_every_epoch_has_other_crops_in_another_order(dataset):
    sampler = CropSampler(dataset)
    first, second = list(sampler), list(sampler)
    assert sorted(draw.entry for draw in first) == sorted(draw.entry for draw in second) == list(range(21))
    assert [draw.entry for draw in first] != [draw.entry for draw in second]
    places = [{tuple(e["start"].tolist()) for e in dataset.__getitems__(epoch)} for epoch in (first, second)]
    assert places[0] != places[1]


@pytest.mark.parametrize("kind", ["threads", "none", "two workers"])
def test_every_loader_gives_the_same_batches_in_the_same_order(dataset, kind):
    expected = [crops(ThreadLoader(dataset, 4, threads=0, sampler=CropSampler(dataset))) for _ in range(1)]
    sampler = CropSampler(dataset)
    loader = loaders(dataset, sampler)[kind]
    assert crops(loader) == expected[0]
    assert crops(loader) != expected[0]
    assert len(loader) == 6


@given(
    count=st.integers(1, 40),
    ranks=st.integers(1, 7),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_ranks_are_disjoint_of_one_length_and_together_one_order(count, ranks, seed, epoch, shuffle):
    if count < ranks:
        with pytest.raises(UsageError, match=f"{count} entries cannot be shared among {ranks} ranks"):
            CropSampler(range(count), ranks, 0)
        return
    whole = CropSampler(range(count), 1, 0, seed, shuffle).order(epoch).tolist()
    shares = [CropSampler(range(count), ranks, r, seed, shuffle).order(epoch).tolist() for r in range(ranks)]
    assert {len(share) for share in shares} == {count // ranks}
    together = list(chain.from_iterable(zip(*shares, strict=True)))
    assert together == whole[: len(together)]
    assert len(set(together)) == len(together) > count - ranks


def test_an_order_goes_on_where_it_stopped_also_with_another_number_of_ranks():
    whole = [draw for _ in range(3) for draw in CropSampler(range(24), 1, 0)]
    first = CropSampler(range(24), 1, 0)
    whole = [*first, *first, *first]
    stopped = CropSampler(range(24), 1, 0)
    done = [*stopped, *islice(stopped, 6)]
    state = json.loads(json.dumps(stopped.state_dict()))
    shares = []
    for rank in range(3):
        going_on = CropSampler(range(24), 3, rank)
        going_on.load_state_dict(state)
        shares.append([*going_on, *going_on])
    assert done + list(chain.from_iterable(zip(*shares, strict=True))) == whole


def test_a_state_of_other_data_is_refused():
    state = CropSampler(range(24), 1, 0).state_dict()
    with pytest.raises(UsageError, match="the state is of 24 entries and seed 0; here are 25 and 0"):
        CropSampler(range(25), 1, 0).load_state_dict(state)
    with pytest.raises(UsageError, match="2 ranks cannot share evenly"):
        CropSampler(range(24), 2, 0).load_state_dict(state | {"drawn": 7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_replicas": 2, "rank": 2}, "rank 2: allowed is 0 to 1"),
        ({"rank": -1}, "rank -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_a_bad_argument_of_a_sampler_is_named(options, message):
    with pytest.raises(UsageError, match=message):
        CropSampler(range(9), **options)


@pytest.mark.parametrize("stop", [1, 3, 6, 8])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_thread_loader_goes_on_exactly(dataset, stop, threads):
    def batches(loader):
        while True:
            yield from crops_one_by_one(loader)

    expected = list(islice(batches(ThreadLoader(dataset, 4, 0)), 15))
    loader = ThreadLoader(dataset, 4, threads)
    done = list(islice(batches(loader), stop))
    state = loader.state_dict()
    again = ThreadLoader(dataset, 4, threads)
    again.load_state_dict(state)
    assert done + list(islice(batches(again), 15 - stop)) == expected


def crops_one_by_one(loader):
    for batch in loader:
        yield from crops([batch])


# PyTorch's loader asks itself for an epoch's random numbers by a name that newer versions call old.
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [2, 6, 8])
def test_torchdatas_stateful_loader_goes_on_exactly(dataset, workers, stop):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def make():
        return stateful.StatefulDataLoader(
            dataset, batch_size=4, sampler=CropSampler(dataset), num_workers=workers, collate_fn=collate
        )

    def batches(loader):
        while True:
            yield from crops_one_by_one(loader)

    expected = list(islice(batches(ThreadLoader(dataset, 4, 0)), 13))
    loader = make()
    done = list(islice(batches(loader), stop))
    state = json.loads(json.dumps(loader.state_dict())) if workers == 0 else loader.state_dict()
    again = make()
    again.load_state_dict(state)
    assert done + list(islice(batches(again), 13 - stop)) == expected


TRAINER = """
import json, sys, time
from etl.training import CropDataset, ThreadLoader
store, state_path, pause_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
loader = ThreadLoader(CropDataset(store, (3, 3, 3), crops_per_volume=7, series="all"), 2, threads=2)
try:
    with open(state_path) as stream:
        loader.load_state_dict(json.load(stream))
except FileNotFoundError:
    pass
import os
for epoch in range(2):
    for batch in loader:
        line = json.dumps([batch["series_key"], batch["start"].tolist()])
        with open(state_path + ".new", "w") as stream:
            json.dump(loader.state_dict(), stream)
        os.replace(state_path + ".new", state_path)
        print(line, flush=True)
        time.sleep(pause_s)
"""


def test_a_killed_process_goes_on_where_it_was(store_path, tmp_path):
    def start(name: str, pause_s: float) -> subprocess.Popen:
        command = [sys.executable, "-c", TRAINER, str(store_path), str(tmp_path / name), str(pause_s)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    expected = start("whole", 0).communicate(timeout=120)[0].splitlines()
    assert len(expected) == 22
    killed = start("killed", 0.2)
    seen = [killed.stdout.readline().strip() for _ in range(5)]
    time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    seen += killed.communicate(timeout=60)[0].splitlines()
    rest = start("killed", 0).communicate(timeout=120)[0].splitlines()
    assert seen + rest[: len(expected) - len(seen)] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: allowed is 1 or more"),
        ({"threads": -1}, "threads -1: allowed is 0 or more"),
        ({"prefetch": 0}, "prefetch 0: allowed is 1 or more"),
    ],
)
def test_a_bad_argument_of_a_loader_is_named(dataset, options, message):
    with pytest.raises(UsageError, match=message):
        ThreadLoader(dataset, **options)


def test_a_last_batch_that_is_not_full_may_be_left_out(dataset):
    for drop_last, sizes in ((False, [4, 4, 4, 4, 4, 1]), (True, [4] * 5)):
        loader = ThreadLoader(dataset, 4, drop_last=drop_last)
        assert [len(batch["patient_id"]) for batch in loader] == sizes
        assert len(loader) == len(sizes)


def test_an_error_while_reading_reaches_the_loop_and_leaves_no_thread_waiting(dataset):
    loader = ThreadLoader(dataset, 2)
    assert next(iter(loader))["image"].shape == (2, 1, 3, 3, 3)

    class Broken(CropDataset):
        def __getitems__(self, indices):
            raise OSError("the disk is gone")

    broken = Broken.__new__(Broken)
    broken.__dict__.update(dataset.__dict__)
    with pytest.raises(OSError, match="the disk is gone"):
        list(ThreadLoader(broken, 2))


@given(
    patients=st.sets(st.text(max_size=8), max_size=60),
    more=st.sets(st.text(max_size=8), max_size=60),
    seed=st.integers(0, 3),
)
def test_patients_who_come_later_move_nobody(patients, more, seed):
    fractions = {"train": 0.5, "validation": 0.25, "test": 0.25}
    before, after = split_patients(patients, fractions, seed), split_patients(patients | more, fractions, seed)
    assert sorted(chain.from_iterable(before.values())) == sorted(patients)
    for name, ids in before.items():
        assert set(ids) <= set(after[name])


def test_shares_hold_for_many_patients_and_another_seed_divides_otherwise():
    patients = [f"P{n}" for n in range(4000)]
    divided = split_patients(patients, (0.7, 0.2, 0.1))
    assert {name: round(len(ids) / 4000, 1) for name, ids in divided.items()} == {
        "train": 0.7, "validation": 0.2, "test": 0.1,
    }  # fmt: skip
    assert split_patients(patients, (0.7, 0.2, 0.1), seed=1) != divided
    assert split_patients(patients, (1.0,)) == {"train": sorted(patients)}


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (0.5, 0.6), (1.2, -0.2), (), (0.25,) * 4, {"train": 0.5}])
def test_fractions_that_are_no_division_are_refused(fractions):
    with pytest.raises(UsageError, match="fractions"):
        split_patients(["P1"], fractions)
