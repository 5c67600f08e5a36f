"""Runs that Lightning began go on here, from wherever their checkpoint was written, and end as they would have there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.errors import CheckpointForeign, CheckpointMismatch
from leyden.testing import Recorder

RUNS = Path(__file__).parent / "data" / "lightning-2.6.6-runs"  # made by the program beside it
FILES = sorted(str(path.relative_to(RUNS)) for path in RUNS.rglob("*.ckpt"))


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch).sub(1).pow(2).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).pow(2).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        by_epoch = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}, {"scheduler": by_epoch, "interval": "epoch"}]


class TwoOptimizers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(3, 2)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, layer in zip(self.optimizers(), (self.layer, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(layer(batch).sub(1).pow(2).mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.layer.parameters(), lr=0.1), torch.optim.SGD(self.other.parameters(), lr=0.1)]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "windows": {"accumulate_grad_batches": 2},
    "middle": {"val_check_interval": 2},
    "two": {},
}


def data() -> DataLoader[Any]:
    return DataLoader(torch.arange(24.0).reshape(8, 3) / 24, batch_size=2)  # type: ignore[arg-type]  # a tensor is indexed, too


def fit(name: str, ckpt_path: Any, *callbacks: Any, **options: Any) -> tuple[Net, Any]:
    net = TwoOptimizers() if name == "two" else Net()
    trainer = leyden.Trainer(
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, ModelCheckpoint("kept")],
        **OPTIONS[name],
    )
    return net, trainer.fit(net, data(), data(), ckpt_path=ckpt_path, **options)


def same(weights: dict[str, Any], net: Net) -> bool:
    """Equal but for the last digits: the files were made on another processor, whose kernels round otherwise."""
    mine = net.state_dict()
    close = {name: torch.allclose(weights[name], mine[name], rtol=1e-5, atol=1e-6) for name in weights if name in mine}
    return weights.keys() == mine.keys() and all(close.values())


def test_every_place_is_there() -> None:
    assert len(FILES) >= 20


@pytest.mark.parametrize("file", FILES)
def test_a_run_of_lightning_ends_here_as_there(file: str) -> None:
    name, place = file.split("/")
    recorder = Recorder()
    net, result = fit(name, RUNS / file, recorder)
    assert same(torch.load(RUNS / name / "end.pt", weights_only=True), net)
    assert result.epochs == 4
    assert result.steps == {"windows": 8}.get(name, 16)
    assert "on_sanity_check_start" not in recorder.names
    begun = recorder.names.count("on_train_batch_start")
    left = {"mid-epoch.ckpt": 10, "last-batch.ckpt": 8, "in-validation.ckpt": 8, "epoch-end.ckpt": 8}.get(place)
    if left is not None and name != "middle":
        assert begun == left
    if place in ("last-batch.ckpt", "in-validation.ckpt") and name != "middle":  # the validation of that epoch is to come
        assert recorder.names.index("on_validation_start") < recorder.names.index("on_train_batch_start")


def test_what_lightning_s_callbacks_kept_is_taken_over() -> None:
    writer = ModelCheckpoint("kept", every_n_epochs=2, save_top_k=-1)
    stopper = EarlyStopping("val_loss", patience=9)
    real = Path(__file__).parent / "data" / "lightning-2.6.6.ckpt"
    content = torch.load(real, weights_only=True)
    assert any(key.startswith("EarlyStopping") for key in content["callbacks"])

    class Tiny(Net):
        def __init__(self, lr: float = 0.1, width: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(3, width)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    trainer = leyden.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[stopper, writer],
    )
    loader = DataLoader(torch.randn(10, 3), batch_size=2)  # type: ignore[arg-type]  # a tensor is indexed, too
    kept: list[float] = []
    trainer.callbacks.append(Recorder(on_fit_start=lambda *_: kept.append(float(stopper.best_score))))
    trainer.fit(Tiny(), loader, loader, ckpt_path=real)
    key = next(key for key in content["callbacks"] if key.startswith("EarlyStopping"))
    assert kept == [float(content["callbacks"][key]["best_score"])]


# -- older ones


def old(content: dict[str, Any], path: Path) -> Path:
    torch.save(content, path)
    return path


def begun(net: Net) -> dict[str, Any]:
    """The state of an optimizer and schedulers after 8 steps, as the versions before 1.6 wrote them, and how they go on."""
    parts = net.configure_optimizers()
    optimizer, schedulers = parts[0][0], [config["scheduler"] for config in parts[1]]
    for number in range(8):
        net.layer.zero_grad()
        net.layer(torch.full((2, 3), number / 8)).sum().backward()
        optimizer.step()
        schedulers[0].step()
    return {
        "state_dict": net.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict() for scheduler in schedulers],
    }


@pytest.mark.parametrize(
    "version",
    [
        {},  # 0.7.1 says nothing of its version
        {"pytorch-lightning_version": "0.9.0", "callbacks": {}},
        {"pytorch-lightning_version": "1.1.0", "callbacks": {}},
        {"pytorch-lightning_version": "1.5.10", "callbacks": {}, "loops": {}},
    ],
    ids=["0.7", "0.9", "1.1", "1.5"],
)
def test_a_file_of_before_1_6_goes_on_at_the_next_epoch(version: dict[str, Any], tmp_path: Path) -> None:
    content = {**version, "epoch": 2, "global_step": 8, **begun(Net())}
    recorder = Recorder()
    net, result = fit("plain", old(content, tmp_path / "old.ckpt"), recorder)
    assert recorder.names.count("on_train_epoch_start") == 2
    assert (result.epochs, result.steps) == (4, 16)
    assert not same(content["state_dict"], net)


def test_0_7_kept_callbacks_at_the_top_level(tmp_path: Path) -> None:
    content = {
        "epoch": 2,
        "global_step": 8,
        **begun(Net()),
        "checkpoint_callback_best": 0.25,
        "early_stop_callback_wait": 1,
        "early_stop_callback_patience": 3,
    }
    _, result = fit("plain", old(content, tmp_path / "old.ckpt"))
    assert result.epochs == 4


def test_callbacks_of_1_0_were_named_by_their_class(tmp_path: Path) -> None:
    class Marks(leyden.Callback):
        def __init__(self) -> None:
            self.mark = 0

        def state_dict(self) -> dict[str, Any]:
            return {"mark": self.mark}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.mark = state_dict["mark"]

    content = {
        "pytorch-lightning_version": "1.1.0",
        "epoch": 2,
        "global_step": 8,
        **begun(Net()),
        "callbacks": {Marks().state_key: {"mark": 7}},
    }
    marks = Marks()
    fit("plain", old(content, tmp_path / "old.ckpt"), marks)
    assert marks.mark == 7


# -- what is refused


class RunsCode:
    def __reduce__(self) -> Any:
        return print, ("code of the file has run",)


def test_a_file_that_needs_pickle_is_refused_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"pytorch-lightning_version": "1.5.10", "epoch": 2, "global_step": 8, **begun(Net()), "extra": RunsCode()}
    path = old(content, tmp_path / "pickled.ckpt")
    with pytest.raises(CheckpointForeign, match=r"pickled\.ckpt.*print.*weights_only=False"):
        fit("plain", path)
    with pytest.raises(CheckpointForeign):
        Net.load_from_checkpoint(path)
    assert "has run" not in capsys.readouterr().out
    _, result = fit("plain", path, weights_only=False)
    assert "code of the file has run" in capsys.readouterr().out
    assert result.epochs == 4


def test_a_bare_state_dict_and_a_bare_pickle_are_refused(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointForeign, match="has no 'state_dict'"):
        fit("plain", tmp_path / "weights.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(CheckpointForeign, match=r"was not written by torch\.save"):
        fit("plain", tmp_path / "plain.pkl")


def test_a_file_of_another_number_of_optimizers_is_refused() -> None:
    with pytest.raises(CheckpointMismatch, match="do not fit TwoOptimizers"):
        fit("two", RUNS / "plain" / "epoch-end.ckpt")


# -- both ways


def test_ours_has_what_lightning_reads(tmp_path: Path) -> None:
    fit("plain", None)
    content = torch.load(next(Path("kept").glob("*.ckpt")), weights_only=True)
    foreign = torch.load(RUNS / "plain" / "checkpoint-epoch=1.ckpt", weights_only=True)
    assert foreign.keys() - content.keys() == set()
    theirs, mine = foreign["loops"]["fit_loop"], content["loops"]["fit_loop"]
    assert theirs.keys() - mine.keys() == set()
    for key in theirs:
        assert theirs[key].keys() - mine[key].keys() == set(), key


def test_the_loss_scale_of_a_file_of_1_x_is_taken_up(tmp_path: Path) -> None:
    """It stands there under the name of PyTorch's former package."""

    def run(epochs: int, ckpt_path: Any = None) -> leyden.Trainer:
        return kit.fit(kit.Tiny(), kit.ones(4), max_epochs=epochs, precision="16-mixed", ckpt_path=ckpt_path)

    run(1).save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    state = content.pop("MixedPrecision")
    assert state["scale"] != 128.0
    del content["leyden"]  # of 1.x, as it were
    torch.save({**content, "native_amp_scaling_state": {**state, "scale": 128.0}}, tmp_path / "old.ckpt")
    again = run(2, tmp_path / "old.ckpt")
    assert again.strategy.precision.state_dict()["scale"] == 128.0
