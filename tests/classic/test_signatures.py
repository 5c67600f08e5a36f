"""Hooks with the arguments of 1.0 to 1.9 are called with what their author's version gave, by whatever names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leyden
from leyden.errors import InvalidReturn
from leyden.testing import BoringModel, random_batches

pytestmark = pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")

EXTRA = {
    # hook: today's arguments, what 1.x gave beside them, its value, other names of it
    "on_train_batch_start": (("batch", "batch_idx"), 2, "dataloader_idx", 0),
    "on_train_batch_end": (("outputs", "batch", "batch_idx"), 3, "dataloader_idx", 0),
    "on_before_optimizer_step": (("optimizer",), 1, "optimizer_idx", 0),
    "on_train_epoch_end": ((), 0, "outputs", list),
    "on_validation_epoch_end": ((), 0, "outputs", list),
    "on_validation_batch_start": (("batch", "batch_idx"), 2, "dataloader_idx", 0),
    "on_validation_batch_end": (("outputs", "batch", "batch_idx"), 3, "dataloader_idx", 0),
}
OF_MODULES = [name for name in EXTRA if not name.startswith("on_validation_batch")]


def defined(arguments: list[str], note: Callable[..., Any]) -> Callable[..., Any]:
    """A function of these arguments that notes the last one."""
    last = arguments[-1].split("=")[0]
    space: dict[str, Any] = {"note": note}
    exec(f"def hook({', '.join(arguments)}): note({last})", space)
    return space["hook"]  # type: ignore[no-any-return]  # what was just defined


@settings(max_examples=25)
@given(
    hook=st.sampled_from(sorted(EXTRA)),
    owner=st.sampled_from(["module", "callback"]),
    name=st.sampled_from(["by its name", "another", "keyword"]),
    place=st.sampled_from(["class", "instance"]),
)
def test_a_hook_is_given_what_it_was_given_then(hook: str, owner: str, name: str, place: str) -> None:
    today, _, extra, value = EXTRA[hook]
    if owner == "module" and hook not in OF_MODULES:
        owner = "callback"
    seen: list[Any] = []
    before = ["trainer", "pl_module"] if owner == "callback" else []
    more = {"by its name": [extra], "another": ["whatever"], "keyword": ["*", extra]}[name]
    arguments = [*before, *today, *more]
    part: Any = BoringModel() if owner == "module" else leyden.Callback()
    if place == "class":
        base: type = type(part)
        part = type("Mine", (base,), {hook: defined(["self", *arguments], seen.append)})()
    else:
        setattr(part, hook, defined(arguments, seen.append))
    module = part if owner == "module" else BoringModel()
    callbacks = [] if owner == "module" else [part]
    options = {"num_sanity_val_steps": 0, "limit_train_batches": 2, "limit_val_batches": 2}
    kit.trainer(*callbacks, **options).fit(module, random_batches(2), random_batches(2))
    assert seen
    assert all(isinstance(each, list) and len(each) == 2 if value is list else each == value for each in seen)


def test_the_base_classes_take_what_1_x_gave() -> None:
    seen = []

    class Module(BoringModel):
        def on_train_epoch_end(self, outputs: Any) -> None:  # type: ignore[override]
            super().on_train_epoch_end(outputs)  # type: ignore[call-arg]
            seen.append("epoch")

        def on_before_optimizer_step(self, optimizer: Any, optimizer_idx: int) -> None:  # type: ignore[override]
            super().on_before_optimizer_step(optimizer, optimizer_idx=optimizer_idx)  # type: ignore[call-arg]

        def lr_scheduler_step(self, scheduler: Any, optimizer_idx: int, metric: Any) -> None:  # type: ignore[override]
            super().lr_scheduler_step(scheduler, optimizer_idx, metric)  # type: ignore[call-arg]
            seen.append(scheduler.last_epoch)

        def configure_gradient_clipping(self, optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm):  # type: ignore[no-untyped-def,override]
            super().configure_gradient_clipping(optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm)
            seen.append(gradient_clip_val)

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer, opt_idx):  # type: ignore[no-untyped-def,override]
            super().optimizer_zero_grad(epoch, batch_idx, optimizer, opt_idx)

        def backward(self, loss, optimizer, optimizer_idx, *args, **kwargs):  # type: ignore[no-untyped-def,override]
            super().backward(loss, optimizer, optimizer_idx, *args, **kwargs)

        def transfer_batch_to_device(self, batch: Any, device: Any) -> Any:  # type: ignore[override]
            return super().transfer_batch_to_device(batch, device)

    class Watching(leyden.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:  # type: ignore[override]
            super().on_train_epoch_end(trainer, pl_module, outputs)  # type: ignore[call-arg]

        def on_before_accelerator_backend_setup(self, trainer: Any, pl_module: Any) -> None:
            super().on_before_accelerator_backend_setup(trainer, pl_module)
            seen.append("before setup")

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            seen.append("setup")

    plain, module, batches = BoringModel(), Module(), random_batches(1)
    module.load_state_dict(plain.state_dict())
    kit.trainer(gradient_clip_val=0.1).fit(plain, batches)
    kit.trainer(Watching(), gradient_clip_val=0.1).fit(module, batches)
    assert seen == ["before setup", "setup", 0.1, 1, "epoch"]
    assert kit.same(plain.state_dict(), module.state_dict())


@pytest.mark.parametrize("year", ["1.2", "1.7", "named checkpoint"])
def test_what_on_save_checkpoint_returns_comes_back(year: str) -> None:
    class Counting(leyden.Callback):
        def __init__(self) -> None:
            self.batches, self.told = 0, None

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches += 1

    class Of12(Counting):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any) -> Any:  # type: ignore[override]
            return {"batches": self.batches}

        def on_load_checkpoint(self, state: Any) -> None:  # type: ignore[override]
            self.told = state

    class Of17(Counting):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> Any:
            return {"batches": self.batches}

        def on_load_checkpoint(self, trainer: Any, pl_module: Any, callback_state: Any) -> None:  # type: ignore[override]
            self.told = callback_state

    class Named(Of17):
        def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
            self.told = checkpoint

    made = {"1.2": Of12, "1.7": Of17, "named checkpoint": Named}[year]
    first = kit.trainer(made())
    first.fit(BoringModel(), random_batches(2))
    first.save_checkpoint("a.ckpt")
    resumed = [made(), made()]  # of two alike, each its own: the second has none in this file
    kit.trainer(resumed[0], max_epochs=2).fit(BoringModel(), random_batches(2), ckpt_path="a.ckpt")
    assert resumed[0].told == {"batches": 2}


def test_two_callbacks_of_one_class_get_each_its_own_state_back() -> None:
    class Holding(leyden.Callback):
        def __init__(self, value: int) -> None:
            self.value = value

        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> Any:
            return {"value": self.value}

        def on_load_checkpoint(self, trainer: Any, pl_module: Any, callback_state: Any) -> None:  # type: ignore[override]
            self.value = callback_state["value"]

    first = kit.trainer(Holding(1), Holding(2))
    first.fit(BoringModel(), random_batches(2))
    first.save_checkpoint("a.ckpt")
    second = [Holding(0), Holding(0)]
    kit.trainer(*second, max_epochs=2).fit(BoringModel(), random_batches(2), ckpt_path="a.ckpt")
    assert [each.value for each in second] == [1, 2]


def test_manual_optimization_as_1_x_wrote_it() -> None:
    class Manual(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.toggle_optimizer(optimizer, 0)
            for args, named in (((optimizer,), {}), ((optimizer, 0), {}), ((), {"optimizer": optimizer, "optimizer_idx": 0})):
                optimizer.zero_grad()
                self.manual_backward(self.step(batch), *args, **named)
                optimizer.step()
            self.untoggle_optimizer(0)
            self.untoggle_optimizer(optimizer_idx=0)  # type: ignore[call-arg]

    kit.trainer().fit(Manual(), random_batches(2))


@pytest.mark.parametrize("hook", ["validation_step", "on_validation_batch_start", "on_validation_batch_end"])
def test_a_module_that_requires_the_loaders_number_is_refused_where_there_is_one(hook: str) -> None:
    arguments = [*(["outputs"] if hook.endswith("end") else []), "batch", "batch_idx", "dataloader_idx"]
    module = type("Mine", (BoringModel,), {hook: defined(["self", *arguments], print)})()
    with pytest.raises(RuntimeError, match=f"Mine.{hook} requires the loader's number"):
        kit.trainer().fit(module, random_batches(2), random_batches(2))
    kit.trainer().fit(module, random_batches(2), [random_batches(2), random_batches(2)])


def test_a_hook_that_no_version_had_is_refused() -> None:
    class Watching(leyden.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any, number: Any, more: Any) -> None:  # type: ignore[override]
            """Nobody ever gave as much."""

    with pytest.raises(InvalidReturn, match="requires 5 arguments"):
        kit.trainer(Watching()).fit(BoringModel(), random_batches(1))


def test_the_epochs_outputs_survive_a_cut() -> None:
    seen: list[Any] = []

    class Module(BoringModel):
        def on_train_epoch_end(self, outputs: Any) -> None:  # type: ignore[override]
            seen.append([float(each["loss"]) for each in outputs])

    saving = kit.at_batch(2, lambda: run.save_checkpoint("cut.ckpt"))
    run, batches = kit.trainer(saving), random_batches(4)
    run.fit(Module(), batches)
    kit.trainer(kit.at_batch(9, print)).fit(Module(), batches, ckpt_path="cut.ckpt")
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4
