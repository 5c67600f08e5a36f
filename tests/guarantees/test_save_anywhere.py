"""A checkpoint saved in any hook: a fresh run that goes on from it hears every hook once in all, and ends with the same bits."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import EarlyStopping, EMAWeightAveraging, ModelPruning, StochasticWeightAveraging
from leyden.checkpoint.durable import Disk
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.hooks import HOOK_NAMES
from leyden.loggers import CSVLogger

OF_A_PROCESS = frozenset(
    {
        *("setup", "teardown", "prepare_data", "on_fit_start", "on_train_start", "on_exception"),
        *("on_save_checkpoint", "on_load_checkpoint", "state_dict", "load_state_dict"),
        *("train_dataloader", "val_dataloader", "configure_optimizers", "configure_callbacks", "configure_model"),
    }
)
"""They begin or end what a process does, so each process hears them."""
CALLED_AGAIN = frozenset(
    {
        *("training_step", "validation_step", "backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
        *("configure_gradient_clipping", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
        *("on_validation_model_eval", "on_validation_model_train", "on_validation_model_zero_grad"),
    }
)
"""They do something and may return it: one that was running when the checkpoint was written is called again."""


class Unsynced(Disk):
    """Leaves it to the operating system when a file gets to the disk: no machine fails in these tests."""

    def sync_file(self, file: Any) -> None:
        pass

    def sync_folder(self, folder: str) -> None:
        pass


class Log:
    """Who heard of what, and the checkpoints that were saved meanwhile."""

    def __init__(self, folder: Path, owner: str | None, only: frozenset[str] | None = None) -> None:
        self.folder, self.owner, self.only = folder, owner, only
        self.heard: list[tuple[str, str]] = []
        self.saved: list[tuple[str, str, int]] = []  # path, hook, how much had been heard
        self.saving = False

    def note(self, who: str, hook: str, trainer: Any) -> None:
        self.heard.append((who, hook))
        if trainer is None or self.saving or hook in ("state_dict", "load_state_dict"):
            return
        if self.owner in (who, "everybody") and (self.only is None or hook in self.only):
            self.saving = True
            path = str(self.folder / f"{len(self.saved)}-{hook}.ckpt")
            trainer.save_checkpoint(path)
            self.saved.append((path, hook, len(self.heard)))
            self.saving = False


def recording(base: type, names: Any, find: Callable[[Any, tuple[Any, ...]], Any]) -> type:
    """A subclass of ``base`` that notes each of ``names`` in ``self.log_of`` beside what ``base`` does."""

    def noting(name: str) -> Callable[..., Any]:
        own = getattr(base, name)

        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            if name in CALLED_AGAIN:
                self.log_of.note(self.who, name, find(self, args))
            returned = own(self, *args, **kwargs)
            if name not in CALLED_AGAIN:  # one that saves counts as told: what it does itself, it has done by then
                self.log_of.note(self.who, name, find(self, args))
            return returned

        hook.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]  # what is looked up before it is called
        hook.__name__ = name
        return hook

    return type(base.__name__, (base,), {name: noting(name) for name in names})


RecordingCallback: Any = recording(
    leyden.Callback, [name for name in HOOK_NAMES if "state_dict" not in name], lambda self, args: args[0]
)


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 1)
        self.collected: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(nn.functional.dropout(self.norm(self.first(x)), 0.3, self.training))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y) + 0.01 * torch.rand(())
        self.collected.append(loss)
        self.log("val_loss", loss)

    def on_validation_epoch_end(self) -> None:
        self.log("val_all", torch.stack(self.collected).mean())
        self.collected.clear()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        schedules = [
            {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9), "interval": "step"},
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)},
            {
                "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
                "monitor": "val_loss",
                "interval": "step",
                "frequency": 2,
            },
        ]
        return [optimizer], schedules


SHARED = [
    *("setup", "teardown", "on_fit_start", "on_train_start", "on_train_end", "on_fit_end"),
    *("on_train_epoch_start", "on_train_batch_start", "training_step", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end"),
    *("on_validation_start", "on_validation_epoch_start", "on_validation_batch_start", "validation_step"),
    *("on_validation_batch_end", "on_validation_epoch_end", "on_validation_end"),
    *("on_validation_model_eval", "on_validation_model_train", "on_validation_model_zero_grad"),
    *("on_before_batch_transfer", "on_after_batch_transfer"),
]
RecordingNet: Any = recording(Net, SHARED, lambda self, args: self._trainer)
STEPPING = ["optimizer_step", "lr_scheduler_step", "optimizer_zero_grad", "configure_gradient_clipping", "backward"]
SteppingNet: Any = recording(Net, [*SHARED, *STEPPING], lambda self, args: self._trainer)


class OneScheduleNet(Net):
    def configure_optimizers(self) -> Any:
        optimizers, schedules = super().configure_optimizers()
        return optimizers, schedules[1:2]


OneSchedule: Any = recording(OneScheduleNet, SHARED, lambda self, args: self._trainer)


class Data(leyden.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(22, 4, generator=generator)
        self.y = self.x.sum(dim=1, keepdim=True)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=4, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.x[:9], self.y[:9]), batch_size=3, shuffle=True)


DATA_HOOKS = ("prepare_data", "setup", "teardown", "transfer_batch_to_device")
RecordingData: Any = recording(Data, DATA_HOOKS, lambda self, args: self.trainer)


def fit(folder: Path, log: Log, name: str, net: Any, ckpt_path: str | None = None, **options: Any) -> dict[str, Any]:
    """One fit, and what can be seen of it afterwards."""
    patience, brought = options.pop("patience", 3), options.pop("brings", list)()
    leyden.seed_everything(3 if ckpt_path is None else 99)
    callbacks = []
    for who in ("first", "between", "late"):
        callback = RecordingCallback()
        callback.log_of, callback.who = log, who
        if who == "late":
            callback.__class__ = type(
                "Late", (RecordingCallback,), {"leyden_phase": "checkpoint", "leyden_reads_epoch_metrics": True}
            )
        callbacks.append(callback)
        if who == "first":
            callbacks.append(EarlyStopping("val_loss", patience=patience))
            callbacks += brought
    module, data = net(), RecordingData()
    module.log_of = data.log_of = log
    module.who, data.who = "module", "data"
    for callback in callbacks:
        if isinstance(callback, RecordingCallback):
            type(callback).state_key = property(lambda self: self.who)  # type: ignore[attr-defined]  # three of one class
    logger = CSVLogger(folder, name="logs", version=name)
    trainer = leyden.Trainer(
        **{
            "max_epochs": 2,
            "accumulate_grad_batches": 2,
            "val_check_interval": 2,
            "num_sanity_val_steps": 1,
            "log_every_n_steps": 1,
            "gradient_clip_val": 1.0,
            **options,
        },
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[TorchCheckpointIO(Unsynced())],
    )
    result = trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return {
        "trainer": trainer,
        "weights": {key: value.clone() for key, value in module.state_dict().items()},
        "optimizer": trainer.optimizers[0].state_dict() if trainer.optimizers else None,
        "schedulers": [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
        "rows": Path(logger.log_dir, "metrics.csv").read_text(),
        "history": result.history,
        "stopping": callbacks[1].state_dict(),
        "counts": (result.epochs, result.steps, result.status),
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second) or (first != first and second != second)


def told(heard: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [entry for entry in heard if entry[1] not in OF_A_PROCESS]


def differing(whole: dict[str, Any], resumed: dict[str, Any]) -> list[str]:
    return [name for name in whole if name != "trainer" and not same(whole[name], resumed[name])]


def ema() -> list[Any]:
    """Updated after every step and at the ends of epochs."""
    return [EMAWeightAveraging(decay=0.7, update_starting_at_epoch=0)]


def swa() -> list[Any]:
    """With a pass for batch norm after its two epochs."""
    return [StochasticWeightAveraging(0.02, 1, 2)]


def pruned() -> list[Any]:
    """Back to the initial values each time, and ordinary in files; and inside validations, as it is."""
    weights = ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.3)
    biases = ModelPruning(
        *("random_unstructured", (), ["bias"], False, 0.2),
        make_pruning_permanent=False,
        use_lottery_ticket_hypothesis=False,
        prune_on_train_epoch_end=False,
    )
    return [weights, biases]


@pytest.mark.parametrize(
    ("owner", "net", "options", "begin"),
    [
        ("first", RecordingNet, {}, 0),
        ("first", OneSchedule, {"brings": swa, "patience": 9}, 3),
        ("first", RecordingNet, {"brings": ema}, 4),
        ("first", RecordingNet, {"brings": pruned}, 5),
        ("between", RecordingNet, {"accumulate_grad_batches": 3, "val_check_interval": 3}, 1),
        ("late", RecordingNet, {"max_steps": 5}, 0),
        ("module", RecordingNet, {"accumulate_grad_batches": 1}, 2),
        ("data", RecordingNet, {}, 0),
        ("module", SteppingNet, {}, 1),
        ("between", SteppingNet, {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": 3}, 0),
    ],
    ids=[
        "first",
        "first, SWA",
        "first, averages",
        "first, pruned",
        "between",
        "late",
        "module",
        "data",
        "stepping module",
        "between, stepping",
    ],
)
def test_a_save_in_any_hook(owner: str, net: Any, options: dict[str, Any], begin: int, tmp_path: Path) -> None:
    log = Log(tmp_path, None)
    whole = fit(tmp_path, log, "whole", net, **options)
    log = Log(tmp_path, owner)
    saving = fit(tmp_path, log, "saving", net, **options)
    assert differing(whole, saving) == [], "saving changes nothing"
    expected = told(log.heard)
    wrong = []
    every = int(os.environ.get("LEYDEN_SAVES_EVERY", "23" if "brings" in options else "7"))
    for number, (path, _, mark) in enumerate(log.saved[begin::every]):
        name = f"resumed-{number}"
        after = Log(tmp_path, None)
        resumed = fit(tmp_path, after, name, net, ckpt_path=path, **options)
        before = told(log.heard[:mark])
        heard = told(after.heard)
        again = 0  # a method that was running, and one that it was called from
        while again < min(2, len(heard)) and heard[again][1] in CALLED_AGAIN and before + heard[again:] != expected:
            again += 1
        problems = differing(whole, resumed)
        if before + heard[again:] != expected:
            missing = [entry for entry in expected if expected.count(entry) > (before + heard).count(entry)]
            twice = [entry for entry in expected if expected.count(entry) < (before + heard).count(entry)]
            problems.append(f"heard: missing {sorted(set(missing))}, twice {sorted(set(twice))}")
        if problems:
            wrong.append(f"{Path(path).name}: {problems}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(log.saved[begin::every])}", *wrong[:40]])
    assert len(log.saved) > 5


ENDS = frozenset({"on_train_epoch_end", "on_train_end", "on_fit_end", "teardown"})


@pytest.mark.parametrize(
    ("limit", "brought"),
    [
        ({"max_epochs": 1}, {}),
        ({"max_steps": 2}, {}),
        ({"max_steps": 2}, {"brings": ema}),
        ({"max_epochs": 1}, {"brings": pruned}),
    ],
    ids=["after an epoch", "inside an epoch", "inside an epoch, averages", "after an epoch, pruned"],
)
def test_a_save_at_the_end(limit: dict[str, Any], brought: dict[str, Any], tmp_path: Path) -> None:
    """With the same command those are told of the end who were not, and where all were, nobody is told again.

    With a higher limit the end that was told is taken back: the rest is told as if it had not been, to everybody, and what it
    left (an epoch's row, its values) is not there. What is left is the run that had the higher limit from the beginning.
    """
    higher = {**brought, "max_epochs": 2, "max_steps": 5}
    limit = {**brought, **limit}
    ended = fit(tmp_path, Log(tmp_path, None), "ended", RecordingNet, **limit)
    log = Log(tmp_path, None)
    whole = fit(tmp_path, log, "whole", RecordingNet, **higher)
    expected = told(log.heard)
    log = Log(tmp_path, "everybody", ENDS)
    saving = fit(tmp_path, log, "saving", RecordingNet, **limit)
    assert differing(ended, saving) == []
    saving["trainer"].save_checkpoint(tmp_path / "after.ckpt")
    points = [*log.saved, (str(tmp_path / "after.ckpt"), "after", len(log.heard))]
    assert {hook for _, hook, _ in points} == {*ENDS, "after"}
    every = int(os.environ.get("LEYDEN_SAVES_EVERY", "3"))
    wrong = []
    for number, (path, _, mark) in enumerate(points):
        before = told(log.heard[:mark])
        if number % every == 0 or path == points[-1][0]:
            after = Log(tmp_path, None)
            resumed = fit(tmp_path, after, f"same-{number}", RecordingNet, ckpt_path=path, **limit)
            if differing(ended, resumed) or before + told(after.heard) != told(log.heard):
                wrong.append(f"{Path(path).name}, again: {differing(ended, resumed)}, {told(after.heard)}")
        if number % every == 1 % every or path == points[-1][0]:
            after = Log(tmp_path, None)
            resumed = fit(tmp_path, after, f"more-{number}", RecordingNet, ckpt_path=path, **higher)
            taken_back = ENDS if "max_steps" in limit else ENDS - {"on_train_epoch_end"}
            while before and before[-1][1] in taken_back:
                before.pop()
            if differing(whole, resumed) or before + told(after.heard) != expected:
                wrong.append(f"{Path(path).name}, further: {differing(whole, resumed)}, {told(after.heard)[:5]}")
    assert not wrong, "\n".join(wrong)


class Of2020(Net):
    """What its epoch ends return is all that is logged of an epoch; ``save`` is called inside them."""

    def __init__(self, save: Callable[[Any], None]) -> None:
        super().__init__()
        self.save = save

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return {"loss": nn.functional.mse_loss(self(x), y)}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return {"val_loss": nn.functional.mse_loss(self(x), y)}

    def training_epoch_end(self, outputs: Any) -> Any:
        mean = torch.stack([each["loss"] for each in outputs]).mean()
        self.log("batches", len(outputs), reduce_fx="sum")
        outputs.clear()
        self.save(self.trainer)
        return {"mean": mean, "log": {"logged_mean": mean}}

    def ended(self, outputs: Any) -> Any:
        mean = torch.stack([each["val_loss"] for each in outputs]).mean()
        self.log("val_batches", len(outputs), reduce_fx="sum")
        self.save(self.trainer)
        return {"val_loss": mean, "log": {"logged_val_loss": mean}}

    def on_validation_epoch_end(self) -> None:
        pass


class Of2020Later(Of2020):
    validation_epoch_end = Of2020.ended


class Of2020Early(Of2020):
    validation_end = Of2020.ended


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
@pytest.mark.parametrize("kind", [Of2020Later, Of2020Early], ids=["validation_epoch_end", "validation_end"])
def test_a_save_in_an_epoch_end_of_2020(kind: Any, tmp_path: Path) -> None:
    """What it returns counts, so the one that was running is called again, with all that the steps had returned."""

    def run(name: str, save: Callable[[Any], None] = lambda trainer: None, **options: Any) -> dict[str, Any]:
        return fit(tmp_path, Log(tmp_path, None), name, lambda: kind(save), **options)

    saved: list[str] = []

    def save(trainer: Any) -> None:
        saved.append(str(tmp_path / f"{len(saved)}.ckpt"))
        trainer.save_checkpoint(saved[-1])

    whole = run("whole")
    assert differing(whole, run("saving", save)) == []
    assert "logged_mean" in whole["rows"]
    wrong = {path: differing(whole, run(f"resumed-{number}", ckpt_path=path)) for number, path in enumerate(saved)}
    assert not any(wrong.values()), wrong
    cut: list[str] = []

    def save_cut(trainer: Any) -> None:
        cut.append(str(tmp_path / f"cut-{len(cut)}.ckpt"))
        trainer.save_checkpoint(cut[-1])

    ended = run("cut", save_cut, max_steps=2)
    ended["trainer"].save_checkpoint(tmp_path / "after.ckpt")
    for number, path in enumerate([cut[-1], str(tmp_path / "after.ckpt")]):
        assert differing(ended, run(f"again-{number}", ckpt_path=path, max_steps=2)) == []
        assert differing(whole, run(f"further-{number}", ckpt_path=path)) == []


class SharingNet(Net):
    """Training and validation count in the same torchmetrics objects: one of its own, one of a collection, one in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = torchmetrics.MeanMetric()
        self.several = torchmetrics.MetricCollection([torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()])
        self.listed = [torchmetrics.MinMetric()]

    def configure_optimizers(self) -> Any:
        optimizers, schedules = super().configure_optimizers()
        schedules[-1].update(interval="epoch", frequency=1)
        return optimizers, schedules

    def count(self, stage: str, batch: Any, loss: Tensor) -> None:
        x, y = batch
        self.shared(loss)
        self.several(self(x).detach(), y)
        self.listed[0].update(loss)
        asked = {"on_step": False, "on_epoch": True}
        self.log(f"{stage}_shared", self.shared, **asked)
        self.log_dict({f"{stage}_{name}": metric for name, metric in self.several.items()}, **asked)
        self.log(f"{stage}_listed", self.listed[0], **asked)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.count("train", batch, loss.detach())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.count("val", batch, self.collected[-1])


@pytest.mark.parametrize("interval", [2, 1.0], ids=["validation inside an epoch", "validation at its end"])
def test_one_metric_object_of_training_and_validation(interval: Any, tmp_path: Path) -> None:
    hooks = {"on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_validation_batch_start"}
    hooks |= {
        "on_validation_batch_end",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_train_epoch_end",
        "on_train_epoch_start",
    }
    whole = fit(tmp_path, Log(tmp_path, None), "whole", SharingNet, val_check_interval=interval)
    for owner in ("first", "late"):
        log = Log(tmp_path, owner, frozenset(hooks))
        assert differing(whole, fit(tmp_path, log, f"saving-{owner}", SharingNet, val_check_interval=interval)) == []
        every = int(os.environ.get("LEYDEN_SAVES_EVERY", "13"))
        wrong = {}
        for number, (path, _, _) in enumerate(log.saved[::every]):
            name = f"{owner}-{number}"
            resumed = fit(tmp_path, Log(tmp_path, None), name, SharingNet, ckpt_path=path, val_check_interval=interval)
            wrong[Path(path).name] = differing(whole, resumed)
        assert not any(wrong.values()), {path: problems for path, problems in wrong.items() if problems}


def test_a_limit_inside_an_epoch_is_no_check_of_early_stopping(tmp_path: Path) -> None:
    """The values of half an epoch end it as any other, and count as none where training goes on inside it."""

    def run(name: str, max_steps: int, ckpt_path: Any = None) -> Any:
        leyden.seed_everything(3)
        stopping = EarlyStopping("loss_epoch", patience=2, mode="max", check_on_train_epoch_end=True)
        trainer = kit.trainer(stopping, max_epochs=9, max_steps=max_steps, default_root_dir=tmp_path / name)
        net, data = SharingNet(), Data()  # its plateau waits for the epoch's end
        result = trainer.fit(net, datamodule=data, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        return stopping.state_dict(), result.history, result.status, result.steps, kit.weights(net)

    whole = run("whole", 40)
    assert whole[2] == "stopped"
    for steps in (3, 8, 12, 13):
        run(f"cut-{steps}", steps)
        more = run(f"more-{steps}", 40, tmp_path / f"cut-{steps}.ckpt")
        assert kit.differences(whole, more) == []


def test_a_save_before_the_fit(tmp_path: Path) -> None:
    """After another verb, or in the hooks before training begins: what is saved is where the fit begins."""
    logs = [Log(tmp_path, None) for _ in range(3)]
    module, data = RecordingNet(), RecordingData()
    module.log_of = data.log_of = logs[0]
    module.who, data.who = "module", "data"
    other = leyden.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    other.validate(module, datamodule=data, verbose=False)
    module.first.bias.data += 1.0
    path = tmp_path / "before.ckpt"
    other.save_checkpoint(path)
    found = [fit(tmp_path, logs[number], f"run-{number}", RecordingNet, ckpt_path=str(path)) for number in (1, 2)]
    assert differing(*found) == []
    assert found[0]["counts"] == (2, 6, "finished")
    assert told(logs[1].heard) == told(logs[2].heard)
    assert ("first", "on_fit_end") in logs[1].heard
    log = Log(tmp_path, "everybody", frozenset({"setup", "on_fit_start", "on_train_start", "prepare_data"}))
    whole = fit(tmp_path, log, "whole", RecordingNet)
    assert {hook for _, hook, _ in log.saved} >= {"setup", "on_fit_start", "on_train_start"}
    for number, (path, _, mark) in enumerate(log.saved):
        after = Log(tmp_path, None)
        resumed = fit(tmp_path, after, f"begun-{number}", RecordingNet, ckpt_path=path)
        assert differing(whole, resumed) == [], path
        assert told(log.heard[:mark]) + told(after.heard) == told(log.heard), path


@pytest.mark.parametrize("owner", ["between", "late"])
def test_a_save_in_a_fit_that_early_stopping_ends(owner: str, tmp_path: Path) -> None:
    hooks = frozenset({"on_validation_end", "on_train_epoch_end", "on_train_end", "on_fit_end", "teardown", "on_train_batch_end"})
    options: dict[str, Any] = {"max_epochs": 9, "patience": 1, "check_val_every_n_epoch": 1}
    log = Log(tmp_path, owner, hooks)
    whole = fit(tmp_path, log, "whole", RecordingNet, **options)
    assert whole["counts"][2] == "stopped"
    expected = told(log.heard)
    every = int(os.environ.get("LEYDEN_SAVES_EVERY", "9"))
    for number, (path, _, mark) in enumerate(reversed(log.saved)):
        if number % every and number > 2:
            continue
        after = Log(tmp_path, None)
        resumed = fit(tmp_path, after, f"resumed-{number}", RecordingNet, ckpt_path=path, **options)
        assert differing(whole, resumed) == [], path
        assert told(log.heard[:mark]) + told(after.heard) == expected, path
