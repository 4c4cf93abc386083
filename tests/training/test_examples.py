"""What README and docs show, run; and whole trainings, stopped and resumed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import etl
from etl.training import CropDataset, CropSampler, ThreadLoader, collate

torch = pytest.importorskip("torch", reason="PyTorch is an optional extra")
ROOT = Path(__file__).parents[2]


def test_the_readmes_training_runs_and_is_short(cohort_run, monkeypatch):
    [code] = re.findall(r"```python\n(import torch\n.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    code = code.replace("demo/store.zarr", str(cohort_run.store)).replace("(32, 64, 64)", "(8, 16, 16)")
    found = {"etl": etl}
    exec(compile(code, "README.md", "exec"), found)
    assert torch.isfinite(found["loss"])


class Training:
    """A tiny network that learns the label; everything that a checkpoint needs."""

    def __init__(self, store: Path) -> None:
        torch.manual_seed(0)
        crops = CropDataset(store, (4, 4, 4), labels=("bright",), crops_per_volume=6, sampling="label")
        self.loader = ThreadLoader(crops, 2, threads=2)
        layers = (torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 1, 1))
        self.network = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.05)
        self.losses: list[float] = []

    def epoch(self, batches: int | None = None) -> None:
        for number, batch in enumerate(self.loader, 1):
            logits = self.network(batch["image"])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["label"].float())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(float(loss.detach()))
            if number == batches:
                break

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("loader", "network", "optimizer")}
        torch.save(parts, path)

    def load(self, path: Path) -> None:
        for name, state in torch.load(path).items():
            getattr(self, name).load_state_dict(state)


def test_a_training_that_was_stopped_ends_with_the_same_weights(labeled_path, tmp_path):
    whole = Training(labeled_path)
    whole.epoch()
    whole.epoch()
    assert min(whole.losses[1:]) < whole.losses[0]
    stopped = Training(labeled_path)
    stopped.epoch(batches=4)
    stopped.save(tmp_path / "checkpoint.pt")
    going_on = Training(labeled_path)
    going_on.load(tmp_path / "checkpoint.pt")
    going_on.epoch()
    going_on.epoch()
    assert stopped.losses + going_on.losses == whole.losses
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(weights, going_on.network.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_lightning_trains_on_crops(labeled_path, tmp_path):
    lightning = pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")
    crops = CropDataset(labeled_path, (4, 4, 4), labels=("bright",), crops_per_volume=4)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Conv3d(1, 1, 3, padding=1)
            self.seen = []

        def training_step(self, batch, _):
            self.seen.append(tuple(batch["start"].flatten().tolist()))
            target = batch["label"].float()
            return torch.nn.functional.binary_cross_entropy_with_logits(self.network(batch["image"]), target)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    loader = torch.utils.data.DataLoader(crops, batch_size=2, sampler=CropSampler(crops), collate_fn=collate)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert len(module.seen) == 8
    assert module.seen[:4] != module.seen[4:]


def test_monais_transforms_take_an_entry(labeled_path):
    transforms = pytest.importorskip("monai.transforms", reason="MONAI is not installed")
    flip = transforms.Compose(
        [transforms.RandFlipd(["image", "label"], prob=1.0, spatial_axis=0), transforms.ScaleIntensityd("image")]
    )
    options = {"labels": ("bright",), "crops_per_volume": 3}
    flipped = CropDataset(labeled_path, (4, 4, 4), transform=flip, **options)
    plain = CropDataset(labeled_path, (4, 4, 4), **options)
    assert torch.equal(torch.as_tensor(flipped[1]["label"]), plain[1]["label"].flip(1))
    batch = next(iter(torch.utils.data.DataLoader(flipped, batch_size=3, collate_fn=collate)))
    assert batch["image"].shape == (3, 1, 4, 4, 4)
