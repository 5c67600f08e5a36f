"""Runs that callbacks and strategies of the user's own steer: what they change is heeded, and survives a resume."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.callbacks.checkpoint import Checkpoint
from leyden.errors import IllegalLog, TrainingTerminated
from leyden.strategies import SingleDeviceStrategy


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.other = nn.Linear(4, 3), nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.other(torch.nn.functional.dropout(self.layer(batch[0]), 0.2, self.training)).pow(2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.other(self.layer(batch[0])).pow(2).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.layer.parameters(), lr=0.05)


def batches(count: int = 6, shuffle: bool = True) -> DataLoader[Any]:
    data = torch.randn(2 * count, 4, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(data), batch_size=2, shuffle=shuffle)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class Saver(Checkpoint):
    """Saves at the end of one batch, among the callbacks that fire last."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at = path, at

    @property
    def state_key(self) -> str:
        return "saver"

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.leyden_fit.progress.batches == self.at:
            trainer.save_checkpoint(self.path)


class Late(Checkpoint):
    def __init__(self) -> None:
        self.told: list[tuple[int, float, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.told.append((batch_idx, float(outputs["loss"]), batch[0]))


def test_a_late_callback_is_told_of_its_batch_by_the_resumed_run(tmp_path: Path) -> None:
    late, quiet = Late(), {**kit.QUIET, "enable_checkpointing": None}
    leyden.seed_everything(1)
    leyden.Trainer(**quiet, max_epochs=1, callbacks=[Saver(tmp_path / "x.ckpt", 4), late]).fit(Net(), batches(), batches(2))
    after = Late()
    leyden.seed_everything(2)
    trainer = leyden.Trainer(**quiet, max_epochs=1, callbacks=[Saver(tmp_path / "y.ckpt", -1), after])
    trainer.fit(Net(), batches(), batches(2), ckpt_path=tmp_path / "x.ckpt")
    assert [told[:2] for told in after.told] == [told[:2] for told in late.told[3:]]
    assert all(torch.equal(mine[2], theirs[2]) for mine, theirs in zip(after.told, late.told[3:], strict=True))


class Average(leyden.Callback):
    """An average of the weights, put in for validation: what a user writes, without a word to anybody."""

    def __init__(self, signal_at: int | None = None) -> None:
        self.average: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        self.signal_at, self.validations = signal_at, 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for name, value in pl_module.state_dict().items():
            self.average[name] = value.clone() if name not in self.average else self.average[name] * 0.5 + value * 0.5

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.kept = weights(pl_module)
        if self.average:
            pl_module.load_state_dict(self.average)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        self.validations += 1
        if self.validations == self.signal_at:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.load_state_dict(self.kept)

    def state_dict(self) -> dict[str, Any]:
        return {"average": dict(self.average), "validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.validations = state_dict["average"], state_dict["validations"]


@pytest.mark.parametrize("at", [1, 2, 5])
def test_weights_that_a_callback_swapped_in_for_validation_are_never_saved_as_trainings(at: int, tmp_path: Path) -> None:
    def fit(folder: Path, average: Average) -> tuple[dict[str, Tensor], Average]:
        leyden.seed_everything(1)
        net = Net()
        writer = ModelCheckpoint(folder, save_last=True, every_n_epochs=9)
        trainer = leyden.Trainer(
            **{**kit.QUIET, "enable_checkpointing": True},
            max_epochs=3,
            val_check_interval=3,
            num_sanity_val_steps=0,
            callbacks=[average, writer],
        )
        trainer.fit(net, batches(), batches(2), ckpt_path="last")
        return weights(net), average

    whole, expected = fit(tmp_path / "whole", Average())
    with pytest.raises(TrainingTerminated):
        fit(tmp_path / "cut", Average(signal_at=at))
    resumed, average = fit(tmp_path / "cut", Average())
    assert equal(whole, resumed)
    assert average.validations == expected.validations, "no validation batch twice or never"


class AddsGroup(leyden.Callback):
    """Trains the second layer too: a finetuning callback in short."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].add_param_group({"params": list(pl_module.other.parameters()), "lr": 0.01})


def test_a_group_that_a_callback_adds_when_fit_starts_is_restored(tmp_path: Path) -> None:
    def fit(steps: int, ckpt_path: Path | None = None) -> leyden.Trainer:
        leyden.seed_everything(1)
        trainer = leyden.Trainer(**kit.QUIET, max_steps=steps, max_epochs=9, callbacks=[AddsGroup()])
        trainer.fit(Net(), batches(), batches(2), ckpt_path=ckpt_path)
        return trainer

    whole = fit(9)
    first = fit(4)
    first.save_checkpoint(tmp_path / "x.ckpt")
    resumed = fit(9, tmp_path / "x.ckpt")
    assert equal(weights(whole.lightning_module), weights(resumed.lightning_module))
    assert len(resumed.optimizers[0].param_groups) == 2
    assert resumed.optimizers[0].state_dict()["state"].keys() == whole.optimizers[0].state_dict()["state"].keys()


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("replaces", [True, False])
def test_a_scheduler_that_a_callback_puts_in_is_stepped(interval: str, replaces: bool) -> None:
    class PutsIn(leyden.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizers[0], 0.5)
            config = type(trainer.lr_scheduler_configs[0])(schedule, interval=interval)
            if replaces:
                trainer.lr_scheduler_configs[:] = [config]
            else:
                trainer.lr_scheduler_configs.append(config)

    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.layer.parameters(), lr=1.0)
            return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)]

    trainer = leyden.Trainer(**kit.QUIET, max_epochs=2, callbacks=[PutsIn()])
    trainer.fit(Scheduled(), batches(3), batches(2))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 ** (6 if interval == "step" else 2))


@pytest.mark.parametrize("place", ["training_step", "on_train_batch_end", "on_before_backward", "validation_step"])
def test_nothing_can_be_logged_in_on_exception_wherever_the_error_was(place: str) -> None:
    class Breaks(Net):
        pass

    def broken(self: Any, *_: Any) -> Any:
        raise ZeroDivisionError("mine")

    setattr(Breaks, place, broken)
    refused = []

    class Logs(leyden.Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            try:
                pl_module.log("x", 1.0)
            except IllegalLog as error:
                refused.append(str(error))

    with pytest.raises(ZeroDivisionError):
        leyden.Trainer(**kit.QUIET, max_epochs=1, callbacks=[Logs()]).fit(Breaks(), batches(3), batches(2))
    assert len(refused) == 1
    assert "outside of the trainer's hooks" in refused[0]


def test_a_strategy_of_the_users_own_is_asked_for_backward_and_its_wrapper_entered() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.entered = 0

        def forward(self, *args: Any) -> Any:
            self.entered += 1
            return self.module(*args)

    class Mine(SingleDeviceStrategy):
        def __init__(self) -> None:
            super().__init__("cpu")
            self.backwards = 0

        def setup(self, module: nn.Module) -> nn.Module:
            self.wrapper = Wrapper(super().setup(module))
            return self.wrapper

        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            self.backwards += 1
            super().backward(loss, *args, **kwargs)

    class CallsItself(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.layer(x))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0]).pow(2).mean()

    own, plain = Mine(), Net()
    trainer = leyden.Trainer(**{**kit.QUIET, "accelerator": "auto"}, max_epochs=1, strategy=own)
    module = CallsItself()
    trainer.fit(module, batches(3), batches(2))
    assert (own.backwards, own.wrapper.entered) == (3, 3)
    assert trainer.lightning_module is module
    assert "forward" not in vars(module)
    assert not equal(weights(module), weights(plain)), "it trained"


CONTRACT = [
    *("leyden_place", "leyden_route", "backward", "leyden_clip", "leyden_accumulating"),
    *("model_state_dict", "load_model_state_dict", "optimizer_states", "load_optimizer_states"),
    *("save_checkpoint", "load_checkpoint", "teardown"),
]


def test_every_method_of_the_contract_is_asked(tmp_path: Path) -> None:
    asked: dict[str, int] = dict.fromkeys(CONTRACT, 0)

    def counting(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            asked[name] += 1
            return getattr(SingleDeviceStrategy, name)(self, *args, **kwargs)

        return method

    counted: Any = type("Counted", (SingleDeviceStrategy,), {name: counting(name) for name in CONTRACT})

    def fit(epochs: int, ckpt_path: Any = None) -> None:
        trainer = leyden.Trainer(
            **{**kit.QUIET, "accelerator": "auto"},
            max_epochs=epochs,
            strategy=counted("cpu"),
            gradient_clip_val=1.0,
            accumulate_grad_batches=2,
        )
        trainer.fit(Net(), batches(4), batches(2), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "x.ckpt")

    fit(1)
    fit(2, tmp_path / "x.ckpt")
    assert min(asked.values()) > 0, asked
    assert asked["leyden_place"] == 2


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"max_epochs": 2}, {"max_epochs": 4}),
        ({"max_epochs": 4, "max_steps": 8}, {"max_epochs": 4}),
        ({"max_epochs": 4, "max_steps": 8}, {"max_epochs": 4, "max_steps": 15}),
        ({"max_epochs": 4, "max_steps": 12}, {"max_epochs": 4}),
        ({"max_epochs": 2, "limit_train_batches": 4}, {"max_epochs": 4, "limit_train_batches": 4}),
        ({"max_steps": 3, "max_epochs": 4, "accumulate_grad_batches": 2}, {"max_epochs": 4, "accumulate_grad_batches": 2}),
    ],
)
@pytest.mark.parametrize("draws_before_saving", [False, True])
def test_a_run_saved_after_fit_goes_on_as_if_it_had_not_ended(
    first: dict[str, Any], then: dict[str, Any], draws_before_saving: bool, tmp_path: Path
) -> None:
    def fit(options: dict[str, Any], ckpt_path: Path | None = None) -> tuple[leyden.Trainer, list[Tensor]]:
        leyden.seed_everything(1 if ckpt_path is None else 5)
        seen: list[Tensor] = []

        class Sees(Net):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                seen.append(batch[0].clone())
                return super().training_step(batch, batch_idx)

        trainer = leyden.Trainer(**kit.QUIET, **options)
        trainer.fit(Sees(), batches(), batches(2), ckpt_path=ckpt_path)
        return trainer, seen

    whole, all_seen = fit(then)
    cut, seen = fit(first)
    if draws_before_saving:
        torch.rand(5)
    cut.save_checkpoint(tmp_path / "x.ckpt")
    resumed, rest = fit(then, tmp_path / "x.ckpt")
    assert len(seen) + len(rest) == len(all_seen)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip([*seen, *rest], all_seen, strict=True))
    assert equal(weights(whole.lightning_module), weights(resumed.lightning_module))
    assert whole.progress.state_dict() == resumed.progress.state_dict()


def test_saving_before_any_fit_is_a_start(tmp_path: Path) -> None:
    trainer = leyden.Trainer(**kit.QUIET, max_epochs=1)
    net = Net()
    trainer.validate(net, batches(2), verbose=False)
    leyden.seed_everything(4)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    trainer.fit(net, batches(), batches(2))
    other = leyden.Trainer(**kit.QUIET, max_epochs=1)
    again = Net()
    nn.init.zeros_(again.layer.weight)
    other.fit(again, batches(), batches(2), ckpt_path=tmp_path / "x.ckpt")
    assert equal(weights(net), weights(again))


class Hears(leyden.Callback):
    """Notes a hook under its own name; one of them saves in it."""

    def __init__(self, name: str, heard: list[str], save: Path | None = None) -> None:
        self.name, self.heard, self.path = name, heard, save

    @property
    def state_key(self) -> str:
        return self.name

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.leyden_fit.progress.batches == 3:
            self.heard.append(self.name)
            if self.path is not None:
                trainer.save_checkpoint(self.path)
                self.path = None


@pytest.mark.parametrize(
    ("others", "expected"),
    [("AMB", "B"), ("MB", "B"), ("M", ""), ("XAMB", "XB"), ("BMA", "B"), ("", ""), ("BX", "BX")],
)
def test_who_was_told_is_known_by_name_where_the_callbacks_have_changed(others: str, expected: str, tmp_path: Path) -> None:
    def fit(names: str, save: Path | None, ckpt_path: Path | None = None) -> str:
        heard: list[str] = []
        callbacks = [Hears(name, heard, save if name == "M" else None) for name in names]
        trainer = leyden.Trainer(**kit.QUIET, max_epochs=1, callbacks=callbacks)
        trainer.fit(Net(), batches(), batches(2), ckpt_path=ckpt_path)
        return "".join(heard)

    assert fit("AMB", tmp_path / "x.ckpt") == "AMB"
    assert fit(others, None, tmp_path / "x.ckpt") == expected


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_before_backward", "on_train_epoch_end", "on_validation_start"])
def test_after_an_error_in_a_hook_the_others_are_not_told_twice(hook: str, tmp_path: Path) -> None:
    heard: list[str] = []

    class Counts(leyden.Callback):
        pass

    class Breaks(leyden.Callback):
        pass

    def count(self: Any, *_: Any) -> None:
        heard.append("counts")

    def breaks(self: Any, *_: Any) -> None:
        heard.append("breaks")
        if heard.count("breaks") == 1:
            raise ZeroDivisionError("mine")

    setattr(Counts, hook, count)
    setattr(Breaks, hook, breaks)

    def fit(ckpt_path: Path | None) -> None:
        writer = ModelCheckpoint(tmp_path, filename="x", save_on_exception=True, every_n_epochs=9)
        options = {**kit.QUIET, "enable_checkpointing": True, "num_sanity_val_steps": 0, "max_epochs": 1}
        leyden.Trainer(**options, callbacks=[Counts(), Breaks(), writer]).fit(Net(), batches(3), batches(2), ckpt_path=ckpt_path)

    with pytest.raises(ZeroDivisionError):
        fit(None)
    fit(next(tmp_path.glob("*.ckpt")))
    times = 3 if hook in ("on_train_batch_end", "on_before_backward") else 1
    assert heard.count("counts") == times
    assert heard.count("breaks") == times + 1, "the one that failed is told again"


class Own:
    """A batch that no file can hold without pickle."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def own(samples: Any) -> Own:
    return Own(torch.stack([each[0] for each in samples]))


@pytest.mark.parametrize(
    "hook", ["on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]
)
def test_a_batch_that_no_file_can_hold_is_read_again(hook: str, tmp_path: Path) -> None:
    class Takes(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step([batch.x], batch_idx)

    def loader() -> DataLoader[Any]:
        plain = batches()
        return DataLoader(plain.dataset, batch_size=2, shuffle=True, collate_fn=own)

    told: list[tuple[int, float]] = []

    class Saves(leyden.Callback):
        path: Path | None = None

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            told.append((batch_idx, float(outputs["loss"])))

    def save(self: Any, trainer: Any, *_: Any) -> None:
        if self.path is not None and trainer.leyden_fit.progress.batches == 2:
            trainer.save_checkpoint(self.path)

    setattr(Saves, hook, save)

    def fit(path: Path | None, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        leyden.seed_everything(1 if ckpt_path is None else 9)
        module, saves = Takes(), Saves()
        saves.path = path
        trainer = leyden.Trainer(**kit.QUIET, max_epochs=1, callbacks=[saves], limit_val_batches=0)
        trainer.fit(module, loader(), ckpt_path=ckpt_path)
        return weights(module)

    whole = fit(tmp_path / "x.ckpt")
    expected, told[:] = list(told), []
    assert equal(whole, fit(None, tmp_path / "x.ckpt"))
    assert told == expected[2:]
