"""Settings come from the command, state comes from the file: runs that go on with another command than they began with."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, SequentialLR, StepLR
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint
from leyden.checkpoint.forms import _KEPT_WITH
from leyden.errors import CheckpointMismatch, LeydenWarning
from leyden.testing import Recorder

DATA = torch.randn(24, 4, generator=torch.Generator().manual_seed(5))


class Net(leyden.LightningModule):
    """Trains on rows of numbers, notes which it saw, and logs a ``val_loss`` that never improves."""

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.optimizer = torch.nn.Linear(4, 1), optimizer
        self.seen: list[list[int]] = []
        self.gradients: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        index, x = batch
        self.seen.append(index.tolist())
        return self.layer(x).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 1.0)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        assert self.layer.weight.grad is not None
        self.gradients.append(self.layer.weight.grad.clone())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01) if self.optimizer is None else self.optimizer(self)


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return index, DATA[index % len(DATA)]


def loader(batch_size: int = 4, shuffle: bool = True, count: int = 24, **more: Any) -> DataLoader[Any]:
    return DataLoader(Rows(count), batch_size, shuffle=shuffle, **more)


def fit(
    path: Path | None = None, *, data: Any = None, model: Net | None = None, val: bool = False, **options: Any
) -> tuple[Net, leyden.Trainer]:
    writes = any(isinstance(each, ModelCheckpoint) for each in options.get("callbacks", []))
    quiet: dict[str, Any] = {"enable_checkpointing": writes, "limit_val_batches": 1.0 if val else 0, "num_sanity_val_steps": 0}
    module, run = model or Net(), kit.trainer(*options.pop("callbacks", []), **{**quiet, "max_epochs": 3, **options})
    leyden.seed_everything(7)
    run.fit(module, data if data is not None else loader(), DataLoader(Rows(2)), ckpt_path=path)
    return module, run


def cut(path: Path, batches: int, **options: Any) -> Net:
    """A run that is broken off after so many batches, and was saved then."""
    stop = Recorder(
        on_train_batch_end=lambda run, *_: _save_and_crash(run, path) if run.leyden_fit.progress.batches == batches else None
    )
    callbacks = [stop, *options.pop("callbacks", [])]
    module = options.pop("model", None) or Net()
    with pytest.raises(kit.Crash):
        fit(callbacks=callbacks, model=module, **options)
    return module


def _save_and_crash(run: leyden.Trainer, path: Path) -> None:
    run.save_checkpoint(path)
    raise kit.Crash


# -- accumulation


@pytest.mark.parametrize(
    ("then", "now", "batches"), [(1, 2, 6), (4, 2, 7), (4, 1, 7), (2, 4, 7), (3, 2, 8), (1, 3, 17), (2, 1, 5)]
)
def test_accumulation_is_the_commands_from_the_resumed_step_on(then: int, now: int, batches: int, tmp_path: Path) -> None:
    first = cut(tmp_path / "a.ckpt", batches, accumulate_grad_batches=then)
    waiting = first.seen[batches - (batches % 6) % then :]
    second, run = fit(tmp_path / "a.ckpt", accumulate_grad_batches=now)
    assert run.accumulate_grad_batches == now
    assert len(first.seen) + len(second.seen) == 18
    # the steps, by hand: a window is full once it has so many batches, and at an epoch's end
    window, expected = len(waiting), 0
    for batch in range(batches, 18):
        window += 1
        if window >= now or batch % 6 == 5:
            window, expected = 0, expected + 1
    assert len(second.gradients) == expected
    # the first step's gradient is the mean of all batches in its window
    of_window = [*waiting, *second.seen[: 1 if now <= len(waiting) + 1 else min(now - len(waiting), 6 - batches % 6)]]
    weights = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    twin = Net()
    twin.load_state_dict(weights)
    sum(twin.layer(DATA[rows]).square().mean() / len(of_window) for rows in of_window).backward()  # type: ignore[union-attr]
    assert twin.layer.weight.grad is not None
    torch.testing.assert_close(second.gradients[0], twin.layer.weight.grad)


def test_schedules_of_accumulation_are_the_commands(tmp_path: Path) -> None:
    cut(tmp_path / "a.ckpt", 8, callbacks=[GradientAccumulationScheduler({0: 3})])
    assert fit(tmp_path / "a.ckpt")[1].accumulate_grad_batches == 1
    assert fit(tmp_path / "a.ckpt", accumulate_grad_batches={1: 2})[1].accumulate_grad_batches == 2
    assert fit(tmp_path / "a.ckpt", callbacks=[GradientAccumulationScheduler({0: 2})])[1].accumulate_grad_batches == 2
    assert fit(tmp_path / "a.ckpt", callbacks=[GradientAccumulationScheduler({0: 3})])[1].accumulate_grad_batches == 3


def test_accumulation_that_a_hook_set_on_the_way_goes_on_with_the_same_command(tmp_path: Path) -> None:
    def more(run: Any, *_: Any) -> None:
        if run.current_epoch == 1:
            run.accumulate_grad_batches = 2

    hook = Recorder(on_train_epoch_start=more)
    cut(tmp_path / "a.ckpt", 8, callbacks=[hook])
    assert fit(tmp_path / "a.ckpt", callbacks=[hook])[1].accumulate_grad_batches == 2
    assert fit(tmp_path / "a.ckpt", accumulate_grad_batches=3)[1].accumulate_grad_batches == 3


# -- ends


@pytest.mark.parametrize("done", [1, 5, 6, 7, 8, 12, 17])
@pytest.mark.parametrize(
    "limits", [{"max_epochs": 1}, {"max_epochs": 2}, {"max_steps": 3}, {"max_steps": 8}, {"max_epochs": 9, "max_steps": 12}]
)
def test_a_lower_limit_ends_at_once(
    done: int, limits: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(tmp_path / "a.ckpt", done)
    module, run = fit(tmp_path / "a.ckpt", **limits)
    allowed = min(6 * limits.get("max_epochs", 3), limits.get("max_steps", 18))
    assert len(module.seen) == max(0, allowed - done)
    assert run.global_step == max(allowed, done)
    if done > allowed:
        assert "is finished: " in capsys.readouterr().out


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize("inside", [False, True])
def test_a_lower_limit_of_batches_ends_the_epoch(limit: int, inside: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    if inside:  # in the middle of the fourth batch
        saves = Recorder(
            on_before_optimizer_step=lambda run, *_: _save_and_crash(run, path) if run.leyden_fit.progress.batches == 3 else None
        )
        with pytest.raises(kit.Crash):
            fit(callbacks=[saves])
    else:
        cut(path, 3)
    if limit > 3 or inside:
        module, _ = fit(path, limit_train_batches=limit)
        left = max(0, limit - 3 - inside)  # the batch in hand has been seen, and is finished
        assert len(module.seen) == left + 2 * limit
    else:
        with pytest.warns(LeydenWarning, match=rf"Epoch 0 had . batches when the run was cut, and is to have {limit} now"):
            module, _ = fit(path, limit_train_batches=limit)
        assert len(module.seen) == 2 * limit


@pytest.mark.parametrize("then", [0, 2])
@pytest.mark.parametrize("batches", [7, 10])
def test_loaders_that_are_reloaded_by_now_are_so_from_the_next_epoch_on(then: int, batches: int, tmp_path: Path) -> None:
    class Loads(Net):
        loads = 0

        def train_dataloader(self) -> Any:
            self.loads += 1
            return loader()

    path, first, second = tmp_path / "a.ckpt", Loads(), Loads()
    stop = Recorder(on_train_batch_end=lambda run, *_: run.leyden_fit.progress.batches == batches and _save_and_crash(run, path))
    run_first = kit.trainer(stop, reload_dataloaders_every_n_epochs=then, limit_val_batches=0, max_epochs=3)
    with pytest.raises(kit.Crash):
        run_first.fit(first)
    kit.trainer(reload_dataloaders_every_n_epochs=1, limit_val_batches=0, max_epochs=3).fit(second, ckpt_path=path)
    cut_epoch = first.seen[6:] + second.seen[: 12 - batches]
    assert sorted(sample for batch in cut_epoch for sample in batch) == list(range(24))
    assert second.loads == 2


def test_a_run_that_early_stopping_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(path: Path | None = None, *callbacks: Any, **options: Any) -> tuple[int, str]:
        _, trainer = fit(path, val=True, callbacks=list(callbacks), **{"max_epochs": 9, **options})
        return trainer.current_epoch, capsys.readouterr().out

    _, first = fit(
        val=True, max_epochs=9, callbacks=[EarlyStopping("val_loss", patience=2), ModelCheckpoint(tmp_path, save_last=True)]
    )
    assert first.current_epoch == 3
    path = tmp_path / "last.ckpt"
    epochs, said = run(path, EarlyStopping("val_loss", patience=2))
    assert epochs == 3
    assert "is finished: val_loss has not improved for 2 epochs" in said
    assert run(path, EarlyStopping("val_loss", patience=1))[0] == 3
    assert run(path, EarlyStopping("val_loss", patience=5)) == (6, "")
    with pytest.warns(LeydenWarning, match="left out: EarlyStopping"):
        assert run(path) == (9, "")
    assert run(path, EarlyStopping("val_loss", patience=2), max_epochs=20) == (4, "")
    assert run(path, EarlyStopping("val_loss", patience=2), max_epochs=-1)[0] == 4
    assert run(path, EarlyStopping("val_loss", patience=2), max_epochs=5)[0] == 3
    assert run(path, EarlyStopping("val_loss", patience=2), min_epochs=7)[0] == 7


@pytest.mark.parametrize(
    ("ends", "goes_on"),
    [
        ({"stopping_threshold": 2.0}, {"stopping_threshold": 0.5}),
        ({"stopping_threshold": 2.0}, {}),
        ({"divergence_threshold": 0.5}, {"divergence_threshold": 1.5}),
        ({"divergence_threshold": 0.5}, {}),
    ],
)
def test_another_threshold_lets_it_train_on(ends: dict[str, float], goes_on: dict[str, float], tmp_path: Path) -> None:
    def run(path: Path | None, **arguments: float) -> int:
        stopping = EarlyStopping("val_loss", patience=9, **arguments)  # type: ignore[arg-type]
        callbacks = [stopping, ModelCheckpoint(tmp_path, save_last=True)]
        return fit(path, val=True, callbacks=callbacks)[1].current_epoch

    assert run(None, **ends) == 1
    assert run(tmp_path / "last.ckpt", **ends) == 1
    assert run(tmp_path / "last.ckpt", **goes_on) == 3


# -- what does not fit


def test_what_does_not_fit_is_never_saved(tmp_path: Path) -> None:
    cut(tmp_path / "a.ckpt", 8)
    other = Net(lambda module: [torch.optim.SGD([parameter], 0.1) for parameter in module.parameters()])
    other.automatic_optimization = False
    keeps = ModelCheckpoint(tmp_path / "kept", save_last=True, save_on_exception=True)
    with pytest.raises(CheckpointMismatch, match="the state of 1 optimizers, and configure_optimizers returned 2"):
        fit(tmp_path / "a.ckpt", model=other, callbacks=[keeps])
    assert glob.glob(str(tmp_path / "kept" / "*")) == []


# -- optimizers and schedulers


def sgd(lr: float = 0.1, **more: Any) -> Any:
    return lambda module: torch.optim.SGD(module.parameters(), lr, **{"momentum": 0.9, **more})


def stepping(lr: float = 0.1, size: int = 4, gamma: float = 0.5, kind: Any = None) -> Any:
    def make(module: Net) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr)
        kind_of = kind or (lambda opt: torch.optim.lr_scheduler.StepLR(opt, size, gamma))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": kind_of(optimizer), "interval": "step"}}

    return make


def groups(*names: str) -> Any:
    return lambda module: torch.optim.SGD([{"params": [getattr(module.layer, name)]} for name in names], 0.1)


def plateau(mode: str) -> Any:
    def make(module: Net) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode),
            "monitor": "val_loss",
        }  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (sgd(), lambda module: torch.optim.Adam(module.parameters()), "state of SGD, and configure_optimizers returned Adam"),
        (lambda module: torch.optim.Adam(module.parameters()), sgd(), "state of Adam, and configure_optimizers returned SGD"),
        (sgd(), groups("weight", "bias"), r"groups of \[2\] parameters, and configure_optimizers returned groups of \[1, 1\]"),
        (sgd(), groups("weight"), r"groups of \[2\].*groups of \[1\] \(in one of them only: layer.bias\)"),
        (groups("weight", "bias"), groups("bias", "weight"), "in another order"),
        (groups("weight"), groups("bias"), r"in one of them only: layer.bias, layer.weight"),
        (stepping(), sgd(), "state of 1 learning-rate schedulers, and configure_optimizers returned 0"),
        (sgd(), stepping(), "state of 0 learning-rate schedulers, and configure_optimizers returned 1"),
        (
            stepping(),
            stepping(kind=lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)),
            "the scheduler StepLR, and configure_optimizers returned ExponentialLR",
        ),
        (
            stepping(kind=lambda opt: SequentialLR(opt, [LinearLR(opt), ExponentialLR(opt, 0.9)], [2])),
            stepping(kind=lambda opt: SequentialLR(opt, [LinearLR(opt), StepLR(opt, 1)], [2])),
            r"SequentialLR\(LinearLR, ExponentialLR\), and configure_optimizers returned SequentialLR\(LinearLR, StepLR\)",
        ),
        (plateau("min"), plateau("max"), "with mode='min', and configure_optimizers returned one with mode='max'"),
        (
            lambda module: torch.optim.Adam(module.parameters()),
            lambda module: torch.optim.Adam(module.parameters(), amsgrad=True),
            "Adam with amsgrad=False, and configure_optimizers returned one with amsgrad=True",
        ),
        (
            lambda module: torch.optim.RMSprop(module.parameters()),
            lambda module: torch.optim.RMSprop(module.parameters(), momentum=0.9),
            "RMSprop with momentum=0, and configure_optimizers returned one with momentum=0.9",
        ),
        (
            lambda module: torch.optim.LBFGS(module.parameters(), history_size=4),
            lambda module: torch.optim.LBFGS(module.parameters(), history_size=2),
            "LBFGS with history_size=4, and configure_optimizers returned one with history_size=2, which keeps as many",
        ),
    ],
)
def test_other_optimizers_and_schedulers_are_named_before_a_step(then: Any, now: Any, says: str, tmp_path: Path) -> None:
    path, val, module = tmp_path / "a.ckpt", "mode" in says, Net(now)
    cut(path, 8, model=Net(then), val=val)
    with pytest.raises(CheckpointMismatch, match=says) as caught:
        fit(path, model=module, val=val)
    assert not isinstance(caught.value, KeyError)
    assert module.seen == []
    assert glob.glob("**/*crash*", recursive=True) == []


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (
            sgd(),
            lambda module: torch.optim.Adam(module.parameters()),
            "an optimizer with .*momentum.* returned Adam, which has amsgrad",
        ),
        (sgd(), groups("weight", "bias"), r"groups of \[2\] parameters, and configure_optimizers returned groups of \[1, 1\]"),
        (
            stepping(),
            stepping(kind=lambda opt: torch.optim.lr_scheduler.LinearLR(opt)),
            "a learning-rate scheduler without end_factor, start_factor, total_iters, and configure_optimizers returned LinearLR",
        ),
    ],
)
def test_they_are_named_from_a_file_that_does_not_describe_its_own(then: Any, now: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    cut(path, 8, model=Net(then))
    content = torch.load(path, weights_only=True)
    del content["leyden"]["described"]  # as in a file of Lightning's
    torch.save(content, path)
    with pytest.raises(CheckpointMismatch, match=says):
        fit(path, model=Net(now))
    assert len(fit(path, model=Net(then))[0].seen) == 10


@pytest.mark.parametrize(
    ("optimizer", "option"), [(torch.optim.Adam, "amsgrad"), (torch.optim.RMSprop, "momentum"), (torch.optim.RMSprop, "centered")]
)
def test_groups_of_one_optimizer_may_keep_other_things(optimizer: Any, option: str, tmp_path: Path) -> None:
    def made(module: Net) -> Any:
        weight, bias = module.parameters()
        return optimizer([{"params": [weight], option: True}, {"params": [bias]}], 0.1)

    cut(tmp_path / "a.ckpt", 3, model=Net(made))
    assert len(fit(tmp_path / "a.ckpt", model=Net(made))[0].seen) == 15
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    first = content["optimizer_states"][0]["state"][0]
    del first[next(name for name, asked in _KEPT_WITH.items() if asked == option)]
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointMismatch, match="kept of parameter 0 has no"):
        fit(tmp_path / "b.ckpt", model=Net(made))


def options_of(run: leyden.Trainer) -> dict[str, Any]:
    return {key: value for key, value in run.optimizers[0].param_groups[0].items() if key != "params"}


def test_options_that_nothing_has_changed_are_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(tmp_path / "a.ckpt", 8, model=Net(sgd(weight_decay=0.1)))
    _, same = fit(tmp_path / "a.ckpt", model=Net(sgd(weight_decay=0.1)))
    assert capsys.readouterr().out == ""
    assert (options_of(same)["lr"], options_of(same)["weight_decay"]) == (0.1, 0.1)
    module, run = fit(tmp_path / "a.ckpt", model=Net(sgd(0.01, momentum=0.5, weight_decay=0.1)))
    assert (options_of(run)["lr"], options_of(run)["momentum"], options_of(run)["weight_decay"]) == (0.01, 0.5, 0.1)
    assert "they count: SGD.lr 0.1 -> 0.01, SGD.momentum 0.9 -> 0.5." in capsys.readouterr().out
    assert len(module.seen) == 10
    assert run.optimizers[0].state  # the momentum that was reached goes on


def test_settings_of_schedulers_are_the_commands_and_where_they_are_is_the_files(tmp_path: Path) -> None:
    cut(tmp_path / "a.ckpt", 2, model=Net(stepping()))  # before the schedule has changed anything
    _, run = fit(tmp_path / "a.ckpt", model=Net(stepping(lr=0.2, size=6, gamma=0.1)), max_steps=5)
    assert options_of(run)["lr"] == 0.2
    _, run = fit(tmp_path / "a.ckpt", model=Net(stepping(lr=0.2, size=6, gamma=0.1)), max_steps=6)
    assert options_of(run)["lr"] == pytest.approx(0.02)


def test_a_value_that_a_schedule_has_changed_goes_on_and_that_is_said(tmp_path: Path) -> None:
    cut(tmp_path / "a.ckpt", 5, model=Net(stepping()))  # lr is 0.05 by then
    with pytest.warns(LeydenWarning, match=r"changed them since: SGD.lr \(then 0.1, reached 0.05, now 0.2\)"):
        _, run = fit(tmp_path / "a.ckpt", model=Net(stepping(lr=0.2)), max_steps=6)
    assert options_of(run)["lr"] == 0.05


def test_a_schedule_over_the_whole_run_is_stretched_with_it(tmp_path: Path) -> None:
    def one_cycle(module: Net) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        steps = int(module.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    cut(tmp_path / "a.ckpt", 8, model=Net(one_cycle), max_epochs=2)
    longer, run = fit(tmp_path / "a.ckpt", model=Net(one_cycle), max_epochs=4)
    assert run.lr_scheduler_configs[0].scheduler.total_steps == 24
    assert len(longer.seen) == 16


# -- validation


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_end", "on_validation_end", "on_sanity_check_end"])
@pytest.mark.parametrize(
    "now", [{"limit_val_batches": 0}, {"limit_val_batches": 1}, {"check_val_every_n_epoch": 2}, {"num_sanity_val_steps": 0}]
)
def test_a_run_that_was_cut_inside_a_validation_and_has_another_now(hook: str, now: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(kit.Crash):
        fit(callbacks=[Recorder(**{hook: lambda run, *_: _save_and_crash(run, path)})], val=True, num_sanity_val_steps=1)
    module, run = fit(path, val=True, **now)
    assert (run.current_epoch, run.global_step) == (3, 18)
    assert len(module.seen) in (12, 18)  # cut in the sanity check, or after the first epoch
