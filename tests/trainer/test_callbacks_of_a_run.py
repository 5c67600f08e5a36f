"""Which callbacks a run has and in which order: the user's, the defaults, and those that a module brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import (
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    ModelSummary,
    OnExceptionCheckpoint,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from leyden.errors import ConflictingOptions, IllegalLog, InvalidType, UnknownName
from leyden.testing import BoringModel, Recorder


def names(callbacks: list[Any]) -> list[str]:
    return [type(callback).__name__ for callback in callbacks]


def trainer(**options: Any) -> leyden.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "max_epochs": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "num_sanity_val_steps": 0,
    }
    return leyden.Trainer(**{**defaults, **options})


class Logging(BoringModel):
    def __init__(self, own: Any = ()) -> None:
        super().__init__()
        self.own = own
        self.asked = 0

    def configure_callbacks(self) -> Any:
        self.asked += 1
        return self.own

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.step(batch))


@pytest.fixture(autouse=True)
def arguments_need_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules here take callbacks as arguments, which no checkpoint can hold."""
    monkeypatch.setattr(Logging, "_init_arguments", lambda self: {})


class A(leyden.Callback):
    pass


class B(leyden.Callback):
    pass


# -- the trainer's own


def test_defaults_come_after_the_user_s_and_checkpoints_last() -> None:
    mine = trainer(callbacks=[ModelCheckpoint(), A(), B()], max_time="00:01:00:00")
    assert names(mine.callbacks) == ["A", "B", "RichProgressBar", "ModelSummary", "Timer", "ModelCheckpoint"]


def test_defaults_can_be_switched_off() -> None:
    mine = trainer(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    assert mine.callbacks == []


def test_what_the_user_brings_replaces_the_default() -> None:
    mine = trainer(callbacks=[TQDMProgressBar(), ModelSummary(max_depth=2), ModelCheckpoint(save_top_k=-1)])
    assert names(mine.callbacks) == ["TQDMProgressBar", "ModelSummary", "ModelCheckpoint"]


def test_one_callback_alone() -> None:
    mine = A()
    assert mine in trainer(callbacks=mine).callbacks


def test_several_of_one_class_without_a_state() -> None:
    first, second = A(), A()
    assert trainer(callbacks=[first, second]).callbacks[:2] == [first, second]


def test_two_that_would_share_a_place_in_the_checkpoint() -> None:
    with pytest.raises(ConflictingOptions, match="Give them different arguments, or override state_key"):
        trainer(callbacks=[EarlyStopping("loss"), EarlyStopping("loss")])
    assert len(trainer(callbacks=[EarlyStopping("loss"), EarlyStopping("acc")]).early_stopping_callbacks) == 2


@pytest.mark.parametrize(
    ("given", "said"), [([A], r"put \(\) behind its name"), (["a"], "a leyden.Callback or a list"), (3, "a leyden.Callback")]
)
def test_what_is_no_callback(given: Any, said: str) -> None:
    with pytest.raises(InvalidType, match=said):
        trainer(callbacks=given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"enable_checkpointing": False, "callbacks": [ModelCheckpoint()]}, "enable_checkpointing=False was set"),
        ({"enable_progress_bar": False, "callbacks": [TQDMProgressBar()]}, "enable_progress_bar=False was set"),
        ({"callbacks": [TQDMProgressBar(), RichProgressBar()]}, "holds 2 progress bars"),
    ],
)
def test_what_excludes_each_other(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConflictingOptions, match=said):
        trainer(**options)


# -- the module's


def test_a_module_adds_its_callbacks() -> None:
    mine, own = A(), B()
    run = trainer(callbacks=[mine])
    run.fit(Logging([own]))
    assert names(run.callbacks) == ["A", "RichProgressBar", "ModelSummary", "B", "ModelCheckpoint"]


def test_one_alone_need_not_be_in_a_list() -> None:
    own = B()
    run = trainer()
    run.fit(Logging(own))
    assert own in run.callbacks


def test_the_module_s_wins_over_the_trainer_s_of_the_same_class() -> None:
    mine, other, own = EarlyStopping("val_loss"), A(), EarlyStopping("val_loss", patience=7)
    run = trainer(callbacks=[mine, other])
    run.fit(Logging([own]))
    assert run.early_stopping_callbacks == [own]
    assert other in run.callbacks


def test_a_subclass_is_another_class() -> None:
    class Mine(EarlyStopping):
        pass

    mine, own = EarlyStopping("val_loss"), Mine("val_loss")
    run = trainer(callbacks=[mine])
    run.fit(Logging([own]))
    assert run.early_stopping_callbacks == [mine, own]


class Kept(ModelCheckpoint):
    """A checkpoint callback of the user's."""


@pytest.mark.parametrize("own", [Kept(monitor="val_loss"), TQDMProgressBar()], ids=lambda own: type(own).__name__)
def test_a_default_gives_way_to_what_does_its_work(own: Any) -> None:
    run = trainer()
    run.fit(Logging([own]))
    assert len(run.checkpoint_callbacks) == 1
    assert run.progress_bar_callback is not None
    assert own in run.callbacks
    assert own in (run.checkpoint_callback, run.progress_bar_callback)


def test_two_bars_are_one_too_many() -> None:
    with pytest.raises(ConflictingOptions, match="together bring 2 progress bars"):
        trainer(callbacks=[RichProgressBar()]).fit(Logging([TQDMProgressBar()]))


def test_what_is_returned_is_checked() -> None:
    with pytest.raises(InvalidType, match=r"configure_callbacks\(\)"):
        trainer().fit(Logging(["no callback"]))

    class Misspelt(leyden.Callback):
        def on_train_strat(self) -> None:
            pass

    with pytest.raises(UnknownName, match="on_train_start"):
        trainer().fit(Logging([Misspelt()]))


def test_the_next_module_does_not_inherit_them() -> None:
    mine, own = EarlyStopping("val_loss"), EarlyStopping("val_loss", patience=7)
    run = trainer(callbacks=[mine])
    run.fit(Logging([own, A()]))
    assert names(run.callbacks)[-2:] == ["A", "ModelCheckpoint"]
    run.fit(Logging())
    assert run.early_stopping_callbacks == [mine]
    assert "A" not in names(run.callbacks)


def test_a_second_fit_asks_again() -> None:
    module = Logging([A()])
    run = trainer()
    run.fit(module)
    module.own = [B()]
    run.fit(module)
    assert "A" not in names(run.callbacks)
    assert "B" in names(run.callbacks)
    assert module.asked == 2


def test_one_that_a_module_makes_anew_at_each_verb_stays_with_its_state() -> None:
    class Makes(Logging):
        def configure_callbacks(self) -> Any:
            self.asked += 1
            return [EarlyStopping("val_loss", patience=9), A(), A()]

    module, run = Makes(), trainer()
    run.fit(module)
    first = list(run.callbacks)
    assert run.early_stopping_callback is not None
    run.fit(module)
    run.validate(module)
    assert [id(each) for each in run.callbacks] == [id(each) for each in first]
    assert module.asked == 3
    run.callbacks.remove(run.early_stopping_callback)
    run.test(module)
    assert run.early_stopping_callbacks == []
    run.fit(Makes())  # another module's are its own
    assert not {id(each) for each in first if type(each) is A} & {id(each) for each in run.callbacks}


def test_the_module_s_checkpoint_serves_its_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = Logging([ModelCheckpoint(tmp_path, monitor="val_loss")])
    run = trainer()
    run.fit(module)
    best = run.checkpoint_callback.best_model_path
    capsys.readouterr()
    run.test()
    assert f"Using the best checkpoint: {best}" in capsys.readouterr().out
    assert run.ckpt_path == best
    assert run.checkpoint_callback.best_model_path == best


def test_callbacks_that_are_added_or_taken_away_later() -> None:
    first, late = A(), B()
    run = trainer(callbacks=[first])
    run.fit(Logging())
    run.callbacks.append(late)
    run.callbacks.remove(first)
    run.fit(Logging([EarlyStopping("val_loss")]))
    assert late in run.callbacks
    assert first not in run.callbacks
    run.validate(Logging())
    assert late in run.callbacks
    assert "EarlyStopping" not in names(run.callbacks)


def test_the_list_may_be_replaced_before_the_first_verb() -> None:
    run = trainer(callbacks=[A()])
    run.callbacks = [B()]
    run.fit(Logging())
    assert names(run.callbacks) == ["B"]


def test_order_in_which_they_fire() -> None:
    fired: list[str] = []

    class Said(leyden.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_train_batch_end(self, *arguments: Any) -> None:
            fired.append(self.name)

    class First(Said):
        leyden_phase = "first"

    class Module(Logging):
        def on_train_batch_end(self, *arguments: Any) -> None:
            fired.append("module")

    trainer(callbacks=[Said("one"), First("zero"), Said("two")], limit_train_batches=1).fit(Module([Said("own")]))
    # those of the module's class give way to it, and a first one stays first
    assert fired == ["zero", "own", "module"]
    fired.clear()
    trainer(callbacks=[Said("one"), First("zero"), Said("two")], limit_train_batches=1).fit(Module())
    assert fired == ["zero", "one", "two", "module"]


def test_a_timer_stops_training() -> None:
    run = trainer(max_time={"microseconds": 1}, max_epochs=-1)
    result = run.fit(Logging())
    assert any(isinstance(callback, Timer) for callback in run.callbacks)
    assert result.status == "stopped"


def test_weights_do_not_depend_on_callbacks() -> None:
    def fit(own: Any) -> torch.Tensor:
        torch.manual_seed(2)
        module = Logging(own)
        trainer().fit(module)
        return module.layer.weight.detach()

    assert torch.equal(fit([]), fit([A(), EarlyStopping("val_loss")]))


# -- what callbacks may do


class Logs(leyden.Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("from_batch", float(batch_idx))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.log_dict({"from_epoch": 2.0, "more": {"inside": 3.0}})

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.log("from_validation", 4.0)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.log("from_test", 5.0)


def test_callbacks_log_as_the_module_does_while_a_verb_runs() -> None:
    of_trainer, of_module = Logs(), type("Others", (Logs,), {})()
    mine = trainer(callbacks=of_trainer, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    mine.fit(Logging([of_module]))
    found = {name: float(value) for name, value in mine.callback_metrics.items()}
    assert {name: found[name] for name in ("from_batch", "from_epoch", "more/inside", "from_validation")} == {
        "from_batch": 1.0,
        "from_epoch": 2.0,
        "more/inside": 3.0,
        "from_validation": 4.0,
    }
    mine.test(Logging(), verbose=False)
    assert mine.callback_metrics["from_test"] == 5.0
    assert not hasattr(of_trainer, "log")
    assert not hasattr(of_module, "log_dict")


def test_a_callback_s_log_is_legal_where_the_module_s_is() -> None:
    class Early(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self.log("x", 1.0)

    with pytest.raises(IllegalLog):
        trainer(callbacks=Early(), enable_progress_bar=False, enable_model_summary=False).fit(Logging())


def test_a_callback_s_own_log_stays() -> None:
    class Own(leyden.Callback):
        def __init__(self) -> None:
            self.log = []  # type: ignore[assignment]  # a user's own attribute

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.log.append("started")  # type: ignore[attr-defined]  # as above

    own = Own()
    trainer(callbacks=own, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False).fit(Logging())
    assert own.log == ["started"]


class Saving(Checkpoint):
    """Where to, and when, is its author's affair."""


def test_a_checkpoint_of_one_s_own_replaces_the_default() -> None:
    own = Saving()
    run = trainer(callbacks=[own, A()])
    assert run.checkpoint_callbacks == [own]
    assert run.checkpoint_callback is own
    assert names(run.callbacks)[-1] == "Saving"
    assert run.fit(BoringModel()).last_checkpoint is None
    assert trainer(callbacks=[own, ModelCheckpoint()]).checkpoint_callback is own
    with pytest.raises(ConflictingOptions, match="holds Saving"):
        trainer(callbacks=own, enable_checkpointing=False)
    from_module = trainer()
    from_module.fit(Logging(Saving()))
    assert names(from_module.checkpoint_callbacks) == ["Saving"]


def test_what_saves_at_an_error_alone_leaves_the_default() -> None:
    kept = OnExceptionCheckpoint("kept")
    run = trainer(callbacks=kept)
    assert names(run.checkpoint_callbacks) == ["OnExceptionCheckpoint", "ModelCheckpoint"]
    assert trainer(callbacks=kept, enable_checkpointing=False).checkpoint_callbacks == [kept]


def test_one_that_joins_in_a_setup_is_told_from_there_on() -> None:
    told: list[str] = []
    late = Recorder(
        on_fit_start=lambda *_: told.append("fit"),
        on_train_batch_end=lambda *_: told.append("batch"),
        on_train_end=lambda *_: told.append("end"),
        teardown=lambda *_, **__: told.append("teardown"),
    )
    joining = Recorder(setup=lambda run, *_, **__: run.callbacks.append(late))
    run = trainer(callbacks=[joining], limit_val_batches=0, enable_checkpointing=False)
    run.fit(BoringModel())
    assert told == ["fit", "batch", "batch", "end", "teardown"]


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_end"])
def test_one_that_joins_in_a_fit_is_told_from_the_next_epoch_on(hook: str) -> None:
    class Late(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            told.append(trainer.current_epoch)

        def on_validation_epoch_end(self, *_: Any) -> None:
            self.log("late", 1.0)

    def change(run: Any, *_: Any) -> None:
        if leaving in run.callbacks:
            run.callbacks.remove(leaving)
            run.callbacks.append(Late())

    told: list[int] = []
    gone: list[int] = []
    leaving = Recorder(on_train_batch_end=lambda run, *_: gone.append(run.current_epoch))
    run = trainer(callbacks=[Recorder(**{hook: change}), leaving], max_epochs=2, enable_checkpointing=False)
    run.fit(BoringModel())
    assert told == ([1, 1] if hook == "on_train_epoch_end" else [0, 0, 1, 1])
    assert gone == ([0, 0] if hook == "on_train_epoch_end" else [])
    assert run.callback_metrics["late"] == 1.0


def test_one_that_leaves_in_a_setup_is_told_nothing_more() -> None:
    told: list[str] = []

    def named(name: str, setup: Any = lambda run: None) -> Recorder:
        def tell_setup(run: Any, *_: Any, **__: Any) -> None:
            told.append(f"{name} setup")
            setup(run)

        return Recorder(
            setup=tell_setup,
            on_train_start=lambda *_: told.append(f"{name} start"),
            teardown=lambda *_, **__: told.append(f"{name} teardown"),
        )

    unwanted = named("unwanted")
    leaving = named("leaving", lambda run: run.callbacks.remove(leaving))
    joining = named("joining")
    first = named("first", lambda run: run.callbacks.__setitem__(slice(None), [joining, first, last]))
    last = named("last")
    run = trainer(callbacks=[leaving, first, unwanted, last], limit_val_batches=0, enable_checkpointing=False)
    run.fit(BoringModel())
    everybody = ["joining", "first", "last"]
    assert told == [
        *("leaving setup", "first setup", "joining setup", "last setup"),
        *(f"{name} start" for name in everybody),
        *(f"{name} teardown" for name in everybody),
    ]
    del told[:]
    run.fit(BoringModel())
    assert "leaving setup" not in told


def test_a_setup_finds_the_module_everywhere() -> None:
    class Data(leyden.LightningDataModule):
        def setup(self, stage: str) -> None:
            see(self.trainer)

        def train_dataloader(self) -> Any:
            return BoringModel().train_dataloader()

    class Model(BoringModel):
        def setup(self, stage: str) -> None:
            see(self.trainer)

    def see(run: Any) -> None:
        seen.append((run.lightning_module, run.strategy.lightning_module, run.strategy.model, run.model))

    seen: list[Any] = []
    run = trainer(callbacks=Recorder(setup=lambda run, *_, **__: see(run)), limit_val_batches=0, enable_checkpointing=False)
    for module in (Model(), Model()):
        run.fit(module, datamodule=Data())
        assert seen == [(module, module, module, module)] * 3
        del seen[:]


def test_what_is_set_on_a_callback_counts(tmp_path: Path) -> None:
    class Values(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log_dict({"falling": -float(self.current_epoch), "rising": float(self.current_epoch)})

    stops, saves = EarlyStopping("rising", patience=1), ModelCheckpoint(monitor="rising", save_top_k=2)
    stops.monitor, saves.monitor, saves.dirpath = "falling", "falling", tmp_path / "kept"
    run = trainer(callbacks=[stops, saves], max_epochs=4)
    run.fit(Values())
    assert run.current_epoch == 4
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["epoch=2-step=6.ckpt", "epoch=3-step=8.ckpt"]
    saves.dirpath = None
    run.fit(Values())
    assert Path(saves.best_model_path).parent == Path("checkpoints").absolute()
