"""The order in which hooks fire, who hears them, and how misspelt ones are refused."""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leyden
from leyden.by_position import fitted, positional_room
from leyden.callback import Callback
from leyden.errors import InvalidReturn, LeakedStopIteration, UnknownName
from leyden.hooks import HOOK_NAMES, overrides
from leyden.module import LightningModule
from leyden.resembling import one_edit_apart
from leyden.spelling import not_a_hook
from leyden.testing import BoringModel, Recorder, random_batches

DOCS = Path(__file__).parents[1] / "docs"


def load_recorder() -> Any:
    spec = importlib.util.spec_from_file_location("record_hooks", DOCS / "record_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recorder = load_recorder()
trainer = partial(kit.trainer, num_sanity_val_steps=0, limit_val_batches=0)


def names(events: Any) -> list[str]:
    short = {"callback": "CB", "module": "LM", "datamodule": "DM", "checkpoint": "last"}
    return [f"{short[who]}.{name}" for _, who, name in events]


def expand(text: str) -> list[str]:
    """``CB/LM.on_x`` is the callback's, then the module's; ``>`` and line ends separate."""
    events = []
    for part in text.replace(">", " ").split():
        who, _, name = part.partition(".")
        events += [f"{each}.{name}" for each in who.split("/")]
    return events


PROLOGUE = "LM.configure_callbacks > DM/LM.prepare_data > DM/CB/LM.setup > LM.configure_model"
TRANSFER = "LM.on_before_batch_transfer > LM.transfer_batch_to_device > LM.on_after_batch_transfer"
FORWARD = "LM.training_step"
ZERO = "CB/LM.on_before_zero_grad > LM.optimizer_zero_grad"
BACKWARD = "CB/LM.on_before_backward > LM.backward > CB/LM.on_after_backward"
BEFORE_STEP = "CB/LM.on_before_optimizer_step > LM.configure_gradient_clipping"
BATCH = (
    f"{TRANSFER} > CB/LM.on_train_batch_start > LM.optimizer_step > {FORWARD} > {ZERO} > {BACKWARD} > {BEFORE_STEP} > "
    "LM.lr_scheduler_step"
)


def loop(stage: str) -> str:
    return f"""
        LM.on_{stage}_model_eval > CB/LM.on_{stage}_start > CB/LM.on_{stage}_epoch_start
        > {TRANSFER} > CB/LM.on_{stage}_batch_start > LM.{stage}_step > CB/LM.on_{stage}_batch_end
        > CB/LM.on_{stage}_epoch_end > CB/LM.on_{stage}_end > LM.on_{stage}_model_train"""


class TestOrder:
    def test_the_page_is_a_fresh_recording(self) -> None:
        assert (DOCS / "hooks.md").read_text(encoding="utf-8") == recorder.page(), "run `python docs/record_hooks.py`"

    def test_fit(self) -> None:
        assert names(recorder.record(num_sanity_val_steps=1)) == expand(
            f"""
            {PROLOGUE} > LM.configure_optimizers > CB/LM.on_fit_start
            > CB.on_sanity_check_start > DM.val_dataloader > {loop("validation")} > CB.on_sanity_check_end
            > DM.train_dataloader > CB/LM.on_train_start > CB/LM.on_train_epoch_start
            > {BATCH} > CB/LM.on_train_batch_end
            > {BATCH} > LM.lr_scheduler_step > CB/LM.on_train_batch_end
            > LM.on_validation_model_zero_grad > {loop("validation")}
            > CB/LM.on_train_epoch_end > CB/LM.on_train_end > CB/LM.on_fit_end > DM/CB/LM.teardown"""
        )

    def test_accumulation(self) -> None:
        events = recorder.record(accumulate_grad_batches=2, batches=2, limit_val_batches=0)
        part = names(recorder.between(events, "on_train_epoch_start", "on_train_epoch_end"))
        assert part == expand(
            f"""
            CB/LM.on_train_epoch_start
            > {TRANSFER} > CB/LM.on_train_batch_start > {FORWARD} > {ZERO} > {BACKWARD} > CB/LM.on_train_batch_end
            > {TRANSFER} > CB/LM.on_train_batch_start > LM.optimizer_step > {FORWARD} > {BACKWARD} > {BEFORE_STEP}
            > LM.lr_scheduler_step > LM.lr_scheduler_step > CB/LM.on_train_batch_end
            > CB/LM.on_train_epoch_end"""
        )

    @pytest.mark.parametrize(
        ("verb", "stage", "loader"),
        [("validate", "validation", "val"), ("test", "test", "test"), ("predict", "predict", "predict")],
    )
    def test_the_other_verbs(self, verb: str, stage: str, loader: str) -> None:
        expected = f"{PROLOGUE} > DM.{loader}_dataloader > {loop(stage)} > DM/CB/LM.teardown"
        assert names(recorder.record(verb)) == expand(expected)

    def test_saving_and_resuming(self) -> None:
        events = names(recorder.record(checkpoint=True))
        saving = events[events.index("last.on_train_epoch_end") :]
        assert saving[: saving.index("CB.on_train_end")] == expand(
            "last.on_train_epoch_end > LM.state_dict > CB.state_dict > DM.state_dict > CB/LM/DM.on_save_checkpoint"
        )
        events = names(recorder.record(max_epochs=2, ckpt_path="saved.ckpt", num_sanity_val_steps=2))
        assert events[: events.index("CB.on_train_epoch_start")] == expand(
            f"""
            {PROLOGUE} > LM.on_load_checkpoint > LM.load_state_dict > DM.on_load_checkpoint > DM.load_state_dict
            > CB.on_load_checkpoint > CB.load_state_dict
            > LM.configure_optimizers > CB/LM.on_fit_start > DM.train_dataloader > DM.val_dataloader > CB/LM.on_train_start"""
        )
        assert events.count("LM.training_step") == 2

    def test_an_exception(self) -> None:
        events = names(recorder.record(module={"training_step": recorder.raising}))
        assert events[events.index("LM.training_step") :] == expand("LM.training_step > CB/DM.on_exception > DM/CB/LM.teardown")

    def test_what_saves_comes_last(self) -> None:
        events = names(recorder.record(checkpoint=True, module={"configure_optimizers": recorder.on_a_plateau}))
        first = events.index("CB.on_train_batch_end")
        assert events[first : first + 3] == expand("CB/LM/last.on_train_batch_end")
        first = events.index("CB.on_validation_end")
        assert events[first : first + 8] == expand(
            "CB/LM.on_validation_end > LM.on_validation_model_train > last.on_validation_end > CB/LM.on_train_epoch_end "
            "> LM.lr_scheduler_step > last.on_train_epoch_end"
        )

    def test_every_hook_of_a_callback_fires_somewhere(self) -> None:
        seen = set()
        for verb in ("fit", "validate", "test", "predict"):
            seen |= {name for _, who, name in recorder.record(verb, num_sanity_val_steps=1) if who == "callback"}
        recorder.record(checkpoint=True)
        seen |= {name for _, who, name in recorder.record(max_epochs=2, ckpt_path="saved.ckpt", checkpoint=True)}
        seen |= {name for _, who, name in recorder.record(module={"training_step": recorder.raising}) if who == "callback"}
        assert set(HOOK_NAMES) <= seen


class TestWhoHears:
    def test_callbacks_hear_in_the_users_order_but_for_those_with_a_phase(self) -> None:
        heard: list[str] = []

        def callback(name: str, where: str = "given", reads: bool = False) -> Callback:
            class Named(Callback):
                leyden_phase = where
                leyden_reads_epoch_metrics = reads

                def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                    heard.append(name)

                def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                    heard.append(name)

            return Named()

        class Module(BoringModel):
            def on_train_epoch_end(self) -> None:
                heard.append("module")

            def on_train_start(self) -> None:
                heard.append("module")

        callbacks = [
            callback("saves", "checkpoint"),
            callback("reads", reads=True),
            callback("plain"),
            callback("finds", "first"),
            callback("plain too"),
        ]
        trainer(callbacks=callbacks, limit_train_batches=1).fit(Module())
        assert heard == [
            *("finds", "reads", "plain", "plain too", "saves", "module"),
            *("finds", "plain", "plain too", "module", "reads", "saves"),
        ]

    def test_a_hook_may_take_fewer_arguments(self) -> None:
        heard: list[Any] = []

        class Short(Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any) -> None:  # type: ignore[override]
                heard.append("start")

            def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:  # type: ignore[override]
                heard.append(sorted(outputs))

        class Module(BoringModel):
            def on_train_batch_end(self, outputs: Any) -> None:  # type: ignore[override]
                heard.append("module")

            def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
                heard.append(batch_idx)

        trainer(callbacks=Short(), limit_train_batches=1, limit_val_batches=1).fit(Module())
        assert heard == ["start", ["loss"], "module", 0]

    def test_a_hook_that_requires_more_than_there_is(self) -> None:
        class Greedy(Callback):
            def on_train_start(self, trainer: Any, pl_module: Any, epoch: int) -> None:  # type: ignore[override]
                raise AssertionError

        with pytest.raises(InvalidReturn, match=r"on_train_start requires 3 arguments, and the hook has 2 to give"):
            trainer(callbacks=Greedy()).fit(BoringModel())

    def test_a_hook_that_requires_a_keyword(self) -> None:
        class Greedy(BoringModel):
            def on_train_batch_start(self, batch: Any, *, batch_idx: int) -> None:  # type: ignore[override]
                raise AssertionError

        with pytest.raises(InvalidReturn, match="requires the keyword argument 'batch_idx', and hooks are called by position"):
            trainer().fit(Greedy())

    def test_what_a_callback_wants_is_asked_once(self) -> None:
        asked: list[str] = []

        class Deaf(Callback):
            def leyden_wants(self, hook: str) -> bool:
                asked.append(hook)
                return hook != "on_train_batch_end"

            def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
                raise AssertionError

            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                asked.append("called")

        trainer(callbacks=Deaf(), limit_train_batches=3).fit(BoringModel())
        assert sorted(asked) == ["called", "on_train_batch_end", "on_train_start"]

    def test_a_hook_set_on_the_instance_is_heard(self) -> None:
        heard: list[str] = []
        callback, module = Callback(), BoringModel()
        callback.on_train_start = lambda trainer, pl_module: heard.append("callback")  # type: ignore[method-assign]
        module.on_train_start = lambda: heard.append("module")  # type: ignore[method-assign]
        trainer(callbacks=callback, limit_train_batches=1).fit(module)
        assert heard == ["callback", "module"]

    def test_a_decorated_step_is_called_with_what_it_takes(self) -> None:
        import functools

        seen: list[tuple[Any, ...]] = []

        def decorated(function: Any) -> Any:
            @functools.wraps(function)
            def wrapper(*arguments: Any, **keywords: Any) -> Any:
                seen.append(arguments[2:])
                return function(*arguments, **keywords)

            return wrapper

        class Module(BoringModel):
            @decorated
            def training_step(self, batch: Any) -> Any:  # type: ignore[override]
                return self.step(batch)

            @decorated
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                pass

        loaders = [random_batches(1), random_batches(1)]
        trainer(limit_train_batches=1, limit_val_batches=1).fit(Module(), random_batches(1), loaders)
        assert seen == [(), (0,), (0,)]

    def test_a_stop_iteration_of_a_hook_is_no_end_of_data(self) -> None:
        class Leaking(Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
                next(iter(()))

        heard = Recorder()
        with pytest.raises(LeakedStopIteration, match="escaped from the code of a hook or step"):
            trainer(callbacks=[Leaking(), heard]).fit(BoringModel())
        assert heard.names[-2:] == ["on_exception", "teardown"]


class TestNames:
    @pytest.mark.parametrize(
        ("base", "name", "nearest"),
        [
            ("module", "validaton_step", "validation_step"),
            ("module", "on_train_epoch_ends", "on_train_epoch_end'?"),
            ("module", "configure_optimisers", "configure_optimizers'?"),
            ("module", "on_epoch_finish", "on_train_epoch_end'?"),
            ("module", "trainin_epoch_end", "training_epoch_end'?"),
            ("callback", "on_epoch_finish", "on_train_epoch_end'?"),
            ("callback", "on_batch_finished", "on_train_batch_end'?"),
            ("module", "on_train_batch_finish", "on_train_batch_"),
            ("callback", "on_train_epoch_ned", "on_train_epoch_end"),
            ("callback", "on_validation_finish", "on_validation_"),
            ("callback", "setpu", "setup"),
            ("datamodule", "train_dataloaders", "train_dataloader"),
        ],
    )
    def test_a_misspelling_is_refused(self, base: str, name: str, nearest: str) -> None:
        def method(self: Any, *arguments: Any) -> None:
            raise AssertionError

        kinds: dict[str, type] = {"module": BoringModel, "callback": Callback, "datamodule": leyden.LightningDataModule}
        mine = type("Mine", (kinds[base],), {name: method})()
        options = {"callbacks": mine} if base == "callback" else {}
        with pytest.raises(UnknownName, match=rf"Mine.{name} is no hook of .* Did you mean '{re.escape(nearest)}"):
            trainer(**options).fit(mine if base == "module" else BoringModel(), datamodule=mine if base == "datamodule" else None)

    def test_a_method_of_the_users_own_may_be_marked(self) -> None:
        class Mine(BoringModel):
            @not_a_hook
            def on_train_batch_finish(self) -> None:
                raise AssertionError

            def training_steps(self) -> None:
                raise AssertionError

        with pytest.raises(UnknownName, match="training_steps"):
            trainer().fit(Mine())
        Mine.training_steps = not_a_hook(Mine.training_steps)  # type: ignore[method-assign]
        trainer(limit_train_batches=1).fit(Mine())

    def test_other_methods_are_the_users(self) -> None:
        class Mine(BoringModel):
            def loss_function(self) -> None: ...

            def _on_train_epoch_ends(self) -> None: ...

        trainer(limit_train_batches=1).fit(Mine())

    def test_every_public_hook_name_is_caught_one_edit_away(self) -> None:
        for name in HOOK_NAMES:
            assert one_edit_apart(name, name[:-1])
            assert one_edit_apart(name, name + "s")
            assert one_edit_apart(name, name[1] + name[0] + name[2:]) == (name[0] != name[1])

    @given(st.text("abc", max_size=6), st.text("abc", max_size=6))
    def test_one_edit_apart_is_the_edit_distance_with_swaps(self, first: str, second: str) -> None:
        edits = {first[:i] + first[i + 1 :] for i in range(len(first))}
        edits |= {first[:i] + c + first[i:] for i in range(len(first) + 1) for c in "abc"}
        edits |= {first[:i] + c + first[i + 1 :] for i in range(len(first)) for c in "abc"}
        edits |= {first[:i] + first[i + 1] + first[i] + first[i + 2 :] for i in range(len(first) - 1)}
        assert one_edit_apart(first, second) == (second in edits and first != second)


class TestFitting:
    def test_overrides(self) -> None:
        module = BoringModel()
        assert overrides(module, LightningModule.training_step)
        assert not overrides(module, LightningModule.on_fit_start)
        module.on_fit_start = print  # type: ignore[method-assign]
        assert overrides(module, LightningModule.on_fit_start)

    def test_positional_room(self) -> None:
        assert positional_room(lambda a, b=1, *, c=2: None) == (2, 1)
        assert positional_room(lambda *a: None) == (float("inf"), 0)
        assert positional_room(dict.get) == (3, 2)

    def test_fitted_cuts_trailing_arguments(self) -> None:
        assert fitted(lambda a: a, 3)(1, 2, 3) == 1
        assert fitted(lambda a, b, c: c, 3)(1, 2, 3) == 3
        assert fitted(lambda *a: a, 3)(1, 2, 3) == (1, 2, 3)
        with pytest.raises(InvalidReturn, match="requires 2 arguments, and the hook has 1 to give"):
            fitted(lambda a, b: None, 1)


def test_on_train_batch_end_gets_what_the_step_returned_detached_and_undivided() -> None:
    seen: list[Any] = []

    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.step(batch)
            self.loss_here = loss.detach()
            return {"loss": loss, "more": [loss * 2, "text"]}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append((outputs["loss"], self.loss_here, outputs["more"]))

    trainer(limit_train_batches=3, accumulate_grad_batches=2).fit(Module())
    for loss, here, (double, text) in seen:
        assert torch.equal(loss, here)
        assert not loss.requires_grad
        assert not double.requires_grad
        assert text == "text"
