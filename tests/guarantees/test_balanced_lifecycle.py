"""Guarantee 13: wherever a run breaks off, what was started is ended, the trainer stays usable, and nothing given is changed."""

from __future__ import annotations

import atexit
import copy
import io
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler, default_collate

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from leyden.errors import LeakedStopIteration
from leyden.hooks import HOOK_NAMES
from leyden.loggers.base import DummyExperiment, Logger
from leyden.profilers import Profiler
from leyden.testing import BoringModel
from leyden.trainer.checks import DATAMODULE_METHODS, MODULE_METHODS

VERBS = ("fit", "validate", "test", "predict")


# -- parts with a tripwire in every method


class Tripwire:
    """Notes every place that a run comes through, and raises at one of them, once."""

    def __init__(self, target: str | None = None, error: BaseException | None = None) -> None:
        self.visited: list[str] = []
        self.target = target
        self.error = error

    def __call__(self, place: str) -> None:
        self.visited.append(place)
        if place == self.target and self.error is not None:
            error, self.error = self.error, None
            raise error

    def count(self, place: str) -> int:
        return self.visited.count(place)


def wired(base: type, part: str, names: Any, wire: Tripwire) -> Any:
    """A subclass of ``base`` whose methods touch the wire first."""

    def touching(name: str) -> Callable[..., Any]:
        def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
            wire(f"{part}.{name}")
            return getattr(super(made, self), name)(*arguments, **keywords)

        return method

    made: Any = type(f"Wired{base.__name__}", (base,), {name: touching(name) for name in names})
    return made


class Numbers(Dataset[Tensor]):
    def __init__(self, wire: Tripwire) -> None:
        self.wire = wire

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        self.wire("dataset.__getitem__")
        return torch.full((32,), float(index))


class Order(Sampler[int]):
    def __init__(self, wire: Tripwire) -> None:
        self.wire = wire

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        self.wire("sampler.__iter__")
        return iter(range(4))


class Model(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = super().training_step(batch, batch_idx)
        self.log("loss", out["loss"])
        return out

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.step(batch))

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.step(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "step"}]


class Data(leyden.LightningDataModule):
    wire: Tripwire

    def loader(self) -> Any:
        def collate(samples: Any) -> Any:
            self.wire("collate")
            return default_collate(samples)

        return DataLoader(Numbers(self.wire), batch_size=2, sampler=Order(self.wire), collate_fn=collate)

    def train_dataloader(self) -> Any:
        return self.loader()

    def val_dataloader(self) -> Any:
        return self.loader()

    def test_dataloader(self) -> Any:
        return self.loader()

    def predict_dataloader(self) -> Any:
        return self.loader()


class Ledger(Logger):
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.rows: list[dict[str, Any]] = []

    name = "ledger"
    version = 0
    experiment = DummyExperiment()

    def leyden_start(self, agree: Any = None) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append(dict(metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def finalize(self, status: str) -> None:
        self.ends.append(status)


class Stopwatch(Profiler):
    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass


MODULE_NAMES = sorted(MODULE_METHODS - {"forward", *(f"{stage}_dataloader" for stage in ("train", "val", "test", "predict"))})
CALLBACK_NAMES = [name for name in HOOK_NAMES if name != "load_state_dict"]


class Scene:
    """A trainer and everything that it runs, wired to one tripwire."""

    def __init__(self, target: str | None = None, error: BaseException | None = None) -> None:
        self.wire = wire = Tripwire(target, error)
        self.module = wired(Model, "module", MODULE_NAMES, wire)()
        self.data = wired(Data, "datamodule", sorted(DATAMODULE_METHODS - {"load_state_dict"}), wire)()
        self.data.wire = wire
        self.callback = wired(leyden.Callback, "callback", CALLBACK_NAMES, wire)()
        self.logger = wired(Ledger, "logger", ["leyden_start", "log_metrics", "log_hyperparams", "finalize", "save"], wire)()
        self.profiler = wired(Stopwatch, "profiler", ["setup", "teardown", "describe"], wire)()
        self.trainer = leyden.Trainer(
            accelerator="cpu",
            max_epochs=1,
            log_every_n_steps=1,
            logger=self.logger,
            profiler=self.profiler,
            callbacks=[self.callback],
            gradient_clip_val=1.0,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=1,
        )

    def run(self, verb: str) -> Any:
        return getattr(self.trainer, verb)(self.module, datamodule=self.data)


def places(verb: str) -> list[str]:
    """Every place that an undisturbed run comes through."""
    scene = Scene()
    scene.run(verb)
    return list(dict.fromkeys(scene.wire.visited))


def every_place() -> list[tuple[str, str]]:
    import os
    import tempfile

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return [(verb, place) for verb in VERBS for place in places(verb)]
        finally:
            os.chdir(before)


BREAKS = every_place()
ENDS = {
    "callback.teardown",
    "module.teardown",
    "datamodule.teardown",
    "logger.finalize",
    "profiler.describe",
    "profiler.teardown",
}


def process_state() -> dict[str, Any]:
    return {
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "signals": {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)},
        "threads": set(threading.enumerate()),
    }


def assert_balanced(scene: Scene) -> None:
    for part, start, end in (
        ("callback", "setup", "teardown"),
        ("module", "setup", "teardown"),
        ("datamodule", "setup", "teardown"),
        ("logger", "leyden_start", "finalize"),
        ("profiler", "setup", "teardown"),
        ("profiler", "setup", "describe"),
    ):
        starts, ends = scene.wire.count(f"{part}.{start}"), scene.wire.count(f"{part}.{end}")
        assert starts == ends, f"{part}: {start} {starts}, {end} {ends}"


OTHERS = (KeyboardInterrupt, StopIteration, SystemExit)
CASES = [
    *((verb, place, ValueError) for verb, place in BREAKS),
    *((verb, place, OTHERS[index % 3]) for index, (verb, place) in enumerate(BREAKS)),
]


@pytest.mark.parametrize(("verb", "place", "kind"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_broken_off_at(verb: str, place: str, kind: type[BaseException]) -> None:
    scene = Scene(place, kind("mine"))
    before = process_state()
    returned = None
    expected: Any = (kind, RuntimeError) if kind is StopIteration else kind
    if kind is KeyboardInterrupt and verb == "fit" and place not in {*ENDS, "module.configure_callbacks"}:
        returned = scene.run(verb)
        assert returned.status == "interrupted"
        assert scene.trainer.interrupted
    else:
        with pytest.raises(expected) as caught:
            scene.run(verb)
        assert not (kind is StopIteration and caught.type is StopIteration and place not in ENDS)

    assert scene.wire.error is None, "the wire was never touched"
    assert_balanced(scene)
    assert process_state() == before
    assert all(module.training for module in scene.module.modules())
    assert all(parameter.requires_grad for parameter in scene.module.parameters())
    if place.endswith(".teardown") and not place.startswith("profiler"):
        assert scene.wire.count("callback.on_exception") == scene.wire.count("datamodule.on_exception") == 1
    elif place not in ENDS and scene.wire.count("callback.setup"):
        assert scene.wire.count("callback.on_exception") == 1
        assert scene.wire.count("datamodule.on_exception") == 1
    if scene.logger.ends:
        ends_well = place in ENDS and (place.startswith("profiler") or not place.endswith(".teardown"))
        assert set(scene.logger.ends) == {"success" if ends_well else "failed"}
    assert scene.trainer.state.stage is None

    # the trainer is good for another run of everything
    scene.wire.visited.clear()
    scene.logger.ends.clear()
    scene.run(verb)
    assert_balanced(scene)
    assert scene.trainer.state.finished
    assert scene.logger.ends == ["success"]
    assert scene.wire.count("callback.on_exception") == 0


# -- what goes wrong while it is being ended


def test_every_teardown_has_its_turn_and_the_first_error_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[str] = []

    class Failing(leyden.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        @property
        def state_key(self) -> str:
            return self.name

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            turns.append(self.name)
            raise ValueError(self.name)

    trainer = quiet(callbacks=[Failing("first"), Failing("second")])
    with pytest.raises(ValueError, match="first"), caplog.at_level(logging.ERROR, "leyden"):
        trainer.fit(BoringModel())
    assert turns == ["first", "second"]
    assert ["second" in str(record.exc_info) for record in caplog.records] == [True]


def test_an_error_in_teardown_does_not_hide_the_run_s_own(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(leyden.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            raise KeyError("the cause")

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            raise OSError("told")

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            raise ValueError("torn down")

    with pytest.raises(KeyError, match="the cause"), caplog.at_level(logging.ERROR, "leyden"):
        quiet(callbacks=[Failing()]).fit(BoringModel())
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError, ValueError]


def test_all_callbacks_hear_of_an_exception_though_one_fails() -> None:
    heard: list[str] = []

    class Deaf(leyden.Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            raise OSError("not now")

    class Listening(leyden.Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            heard.append(str(exception))

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        quiet(callbacks=[Deaf(), Listening()]).fit(BoringModel())
    assert heard == ["the cause"]


def test_what_was_not_set_up_is_not_torn_down() -> None:
    torn: list[str] = []

    class Early(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            raise ValueError("no data")

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            torn.append("early")

    class Late(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self.file = io.StringIO()

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            torn.append("late")
            self.file.close()

    with pytest.raises(ValueError, match="no data"):
        quiet(callbacks=[Early(), Late()]).fit(BoringModel())
    assert torn == ["early"]


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
@pytest.mark.parametrize("verb", VERBS)
def test_bars_are_closed_and_the_screen_is_given_back(verb: str, bar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(BoringModel):
        def break_off(self, *arguments: Any) -> Any:
            raise ValueError("mine")

        training_step = validation_step = test_step = predict_step = break_off

    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    mine = bar(console_kwargs={"force_terminal": True, "file": screen}) if bar is RichProgressBar else bar()
    stdout, stderr = sys.stdout, sys.stderr
    trainer = quiet(callbacks=[mine], enable_progress_bar=True)
    with pytest.raises(ValueError, match="mine"):
        getattr(trainer, verb)(Failing())
    assert (sys.stdout, sys.stderr) == (stdout, stderr)
    if bar is RichProgressBar:
        assert mine.leyden_screen is None


def test_a_toggled_optimizer_is_untoggled() -> None:
    class Gan(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.one, self.two = torch.nn.Linear(32, 1), torch.nn.Linear(32, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.toggle_optimizer(self.optimizers()[0])
            assert not self.two.weight.requires_grad
            raise ValueError("mine")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.one.parameters(), 0.1), torch.optim.SGD(self.two.parameters(), 0.1)

    module = Gan()
    with pytest.raises(ValueError, match="mine"):
        quiet().fit(module, BoringModel().train_dataloader())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_modes_come_back_layer_by_layer_when_validation_breaks_off() -> None:
    class Frozen(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
            self.backbone.eval()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert not self.training
            raise ValueError("mine")

    module = Frozen()
    with pytest.raises(ValueError, match="mine"):
        quiet(num_sanity_val_steps=1).fit(module)
    assert module.training
    assert module.layer.training
    assert not module.backbone.training
    assert not module.backbone[1].training


# -- Ctrl-C


quiet = partial(kit.trainer, limit_train_batches=3, limit_val_batches=1, num_sanity_val_steps=0)


def test_ctrl_c_gives_control_and_the_trained_weights_back() -> None:
    class Stopped(BoringModel):
        stops = True

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.stops and batch_idx == 2:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    torch.manual_seed(1)
    module = Stopped()
    start = module.layer.weight.detach().clone()
    trainer = quiet(max_epochs=2)
    result = trainer.fit(module)
    assert (result.status, result.reason, result.steps, result.epochs) == ("interrupted", "Ctrl-C", 2, 0)
    trained = module.layer.weight.detach().clone()
    assert not torch.equal(trained, start)

    module.stops = False
    begun: list[Tensor] = []
    trainer.callbacks.append(
        leyden.testing.Recorder(on_train_start=lambda *_: begun.append(module.layer.weight.detach().clone()))
    )
    result = trainer.fit(module)
    assert torch.equal(begun[0], trained)  # it trains on from there, with counts of its own
    assert (result.status, result.steps, result.epochs) == ("finished", 6, 2)
    assert not trainer.interrupted


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_ctrl_c_in_the_other_verbs_is_raised(verb: str) -> None:
    class Stopped(BoringModel):
        def on_predict_batch_start(self, *arguments: Any) -> None:
            raise KeyboardInterrupt

        on_validation_batch_start = on_test_batch_start = on_predict_batch_start

    trainer = quiet()
    with pytest.raises(KeyboardInterrupt):
        getattr(trainer, verb)(Stopped())
    assert trainer.interrupted
    assert getattr(trainer, verb)(BoringModel()) is not None
    assert not trainer.interrupted


@pytest.mark.parametrize(
    ("at", "sanity", "stage"),
    [("validation_step", 2, "sanity_check"), ("validation_step", 0, "validate"), ("training_step", 2, "train")],
)
def test_who_is_told_of_an_error_sees_the_stage_that_it_was_in(at: str, sanity: int, stage: str) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("mine")

    module = BoringModel()
    setattr(module, at, fail)
    seen: list[Any] = []
    notes = leyden.testing.Recorder(on_exception=lambda run, *_: seen.append((run.state.stage, run.interrupted)))
    trainer = quiet(callbacks=[notes], num_sanity_val_steps=sanity)
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(module)
    assert seen == [(stage, True)]
    assert trainer.interrupted
    assert trainer.state.stage is None
    trainer.fit(BoringModel())
    assert not trainer.interrupted


def test_a_real_signal() -> None:
    def press(trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        signal.raise_signal(signal.SIGINT)

    result = quiet(callbacks=[leyden.testing.Recorder(on_train_batch_end=press)]).fit(BoringModel())
    assert result.status == "interrupted"
    assert result.steps >= 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- each fit is fresh


def test_each_fit_counts_for_itself() -> None:
    trainer = quiet(max_epochs=2, callbacks=[EarlyStopping("val_loss", patience=1)])
    first, second = Model(), Model()
    results = [trainer.fit(module) for module in (first, second, first)]
    assert [(result.steps, result.epochs, len(result.history)) for result in results] == [(6, 2, 2)] * 3
    assert trainer.global_step == 6


def test_a_stopped_fit_does_not_stop_the_next() -> None:
    class Rising(Model):
        rising = True

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", float(self.current_epoch if self.rising else -self.current_epoch))

    stopping = EarlyStopping("val_loss", patience=1)
    trainer = quiet(max_epochs=5, callbacks=[stopping])
    module = Rising()
    assert trainer.fit(module).status == "stopped"
    module.rising = False
    result = trainer.fit(module)
    assert (result.status, result.epochs) == ("finished", 5)
    assert (stopping.wait_count, stopping.stopped_epoch) == (0, 0)


def test_checkpoints_of_the_next_fit_are_its_own(tmp_path: Any) -> None:
    keeping = ModelCheckpoint(monitor="val_loss", save_top_k=1)
    trainer = quiet(max_epochs=2, callbacks=[keeping], enable_checkpointing=True, default_root_dir=tmp_path)

    class Falling(Model):
        floor = 1.0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.floor - 0.1 * self.current_epoch)

    first = Falling()
    one = trainer.fit(first)
    second = Falling()
    second.floor = 5.0  # worse than anything of the first fit
    two = trainer.fit(second)
    assert one.best_score == pytest.approx(0.9)
    assert two.best_score == pytest.approx(4.9)
    assert two.best_checkpoint != one.best_checkpoint
    assert torch.equal(Falling.load_from_checkpoint(two.best_checkpoint).layer.weight, second.layer.weight)


# -- nothing that was given is changed


def attributes(owner: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if not name.startswith("_DataLoader__")}


def test_lists_loaders_samplers_and_batches_are_left_alone() -> None:
    seen: list[Tensor] = []
    batches = [torch.full((2, 32), float(i)) for i in range(4)]
    callbacks: list[leyden.Callback] = [EarlyStopping("val_loss/dataloader_idx_0")]
    loggers: list[Logger] = [Ledger()]
    sampler = RandomSampler(range(8))
    loader = DataLoader(torch.arange(8 * 32.0).reshape(8, 32), batch_size=2, sampler=sampler)
    plain = DataLoader(batches, batch_size=None)
    vals = [DataLoader(torch.ones(4, 32), batch_size=2), plain]
    given = {"loader": loader, "sampler": sampler, "batch_sampler": loader.batch_sampler, "val": vals[0], "plain": plain}
    before = {name: dict(attributes(part)) for name, part in given.items()}
    copies = copy.deepcopy(batches)
    listed = (list(callbacks), list(loggers), list(vals))

    class Several(Model):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            seen.append(batch)
            self.log("val_loss", self.step(batch))

    options = {"max_time": {"hours": 1}, "accumulate_grad_batches": {0: 1, 1: 2}}
    kept = copy.deepcopy(options)
    trainer = quiet(callbacks=callbacks, logger=loggers, max_epochs=2, enable_checkpointing=True, overfit_batches=0.0, **options)
    trainer.fit(Several(), loader, vals)
    trainer.validate(Several(), vals)
    trainer.predict(Several(), [plain])

    assert (callbacks, loggers, vals) == listed
    assert options == kept
    for name, part in given.items():
        after = attributes(part)
        assert after.keys() == before[name].keys()
        assert all(after[key] is before[name][key] for key in after), name
    assert all(torch.equal(batch, original) for batch, original in zip(batches, copies, strict=True))
    assert any(batch is batches[0] for batch in seen)  # a batch on the CPU is handed on as it is


def test_dicts_of_loaders_and_batches_are_left_alone() -> None:
    loaders = {"a": DataLoader(torch.ones(4, 32)), "b": [DataLoader(torch.zeros(2, 32))]}
    original = {"a": loaders["a"], "b": list(loaders["b"])}

    class Nested(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.step(batch["a"]) + self.step(batch["b"][0])

    quiet(limit_train_batches=1.0).fit(Nested(), loaders)
    assert loaders == original


def test_overfitting_does_not_change_the_loader() -> None:
    loader = DataLoader(torch.ones(8, 32), shuffle=True)
    with pytest.warns(leyden.errors.LeydenWarning, match="overfit_batches"):
        quiet(overfit_batches=2, limit_train_batches=None, limit_val_batches=None).fit(BoringModel(), loader)
    assert isinstance(loader.sampler, RandomSampler)
    assert not isinstance(loader.batch_sampler.sampler, SequentialSampler)  # type: ignore[union-attr]  # it batches


def test_a_leak_says_where_to_look() -> None:
    class Leaking(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return next(iter([]))

    with pytest.raises(LeakedStopIteration, match="StopIteration escaped") as caught:
        quiet().fit(Leaking())
    assert isinstance(caught.value.__context__, StopIteration)


def test_every_place_is_on_the_list() -> None:
    by_verb = Counter(verb for verb, _ in BREAKS)
    assert by_verb["fit"] > 60
    assert min(by_verb[verb] for verb in VERBS) > 25
    fit = {place for verb, place in BREAKS if verb == "fit"}
    for place in ("module.training_step", "dataset.__getitem__", "collate", "sampler.__iter__", "callback.on_save_checkpoint"):
        assert place in fit


def test_nothing_piles_up_over_many_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No handlers of signals, forks or the exit, no threads, no open files."""
    registered: list[Any] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **given: registered.append(given))
    monkeypatch.setattr(atexit, "register", lambda *given, **more: registered.append(given))

    def held() -> tuple[Any, ...]:
        files = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        return threading.active_count(), files, signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), len(registered)

    counts = []
    for number in range(6):
        writer = leyden.callbacks.ModelCheckpoint(tmp_path / str(number))
        logger = leyden.loggers.CSVLogger(tmp_path)
        kit.trainer(writer, enable_checkpointing=None, logger=logger).fit(kit.Tiny(), kit.ones(2), ckpt_path="last")
        counts.append(held())
    assert counts[1:] == counts[1:2] * 5
