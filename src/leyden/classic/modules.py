"""What stands between a module or callback of any year and the core: found once, when a verb starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from leyden.by_position import fitted
from leyden.callback import Callback
from leyden.classic.batch_iterator import steps_with_iterators
from leyden.classic.epoch_ends import EPOCH_ENDS, OLDER_EPOCH_ENDS, EpochEnds
from leyden.classic.in_turn import Turns, notice_turns
from leyden.classic.old_hooks import (
    BEFORE_SETUP,
    CALLBACKS_OLD_HOOKS,
    GONE,
    MODULES_OLD_HOOKS,
    ON_INIT,
    echo,
    own_method,
    refuse_gone,
)
from leyden.classic.ready_gradients import with_gradients_ready
from leyden.classic.returned import Reader
from leyden.classic.signatures import Order, hooks_as_then, number_of, steps_as_then
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.notices import notice
from leyden.state.fit_state import Stepping
from leyden.state.run import Run
from leyden.state.stage import STAGES, TrainerFn

STEP_ENDS = {"training_step": "training_step_end", "validation_step": "validation_step_end", "test_step": "test_step_end"}
ALIASES = {
    "val_step": "validation_step",
    "configure_optimizer": "configure_optimizers",
    "configure_sharded_model": "configure_model",
}
MODULE_NAMES = frozenset(
    {*ALIASES, *EPOCH_ENDS.values(), *OLDER_EPOCH_ENDS.values(), *STEP_ENDS.values(), *MODULES_OLD_HOOKS, *GONE}
    | {"get_tqdm_dict", "get_progress_bar_dict", "tbptt_split_batch", "training_end"}
)
CALLBACK_NAMES = frozenset({*CALLBACKS_OLD_HOOKS, *ON_INIT, BEFORE_SETUP})
RESEMBLED = frozenset(
    {"configure_optimizer", *EPOCH_ENDS.values(), *STEP_ENDS.values(), *(name for name in MODULES_OLD_HOOKS if name[:3] == "on_")}
)
"""Old names of a module with which misspelt ones are compared: those that nobody gives a method of his own."""

_BARS = {"get_progress_bar_dict": "ProgressBar.get_metrics", "get_tqdm_dict": "ProgressBar.get_metrics"}


@dataclass
class Adapter:
    """What a verb has to know about a module in order to run it as today's."""

    module: LightningModule
    steps: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """By today's names: what to call instead of the module's own method."""
    first: list[Callback] = field(default_factory=list)
    """Callbacks that fire before the user's."""
    callbacks: list[Callback] = field(default_factory=list)
    """Callbacks that fire after the user's."""
    instead: Mapping[tuple[int, str], Callable[..., Any]] = field(default_factory=dict)
    """By owner and name: hooks whose arguments are another year's."""
    read_mapping: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = lambda stage, outputs: outputs
    """Called with the stage and every dict that a step returns."""
    bar_items: Callable[[], Mapping[str, Any]] | None = None
    """What the module wants the bar to show, where it has a say."""
    optimization: Callable[[Run], Stepping] | None = None
    """How batches become steps, where that is not one step of one optimizer."""


def passed_over(module: LightningModule) -> frozenset[str]:
    """Old names that ``module`` has beside today's, which alone is called then; a class below may override them by today's."""
    return frozenset(
        old
        for old, new in ALIASES.items()
        if overrides(module, getattr(LightningModule, new)) and _depth(module, old) <= _depth(module, new)
    )


def _depth(module: LightningModule, name: str) -> int:
    """How far up the line of classes a name is found; the module itself is below them all."""
    if name in vars(module):
        return -1
    return next((depth for depth, owner in enumerate(type(module).__mro__) if name in vars(owner)), 0)


def adapt(run: Run, module: LightningModule) -> Adapter:
    """Find what ``module`` and the callbacks say in an older dialect.

    Raises :class:`leyden.errors.Unsupported` for what cannot be honoured.
    """
    refuse_gone(module)
    adapter = Adapter(module)
    for old, new in ALIASES.items():
        method = own_method(module, old)
        if method is not None and not overrides(module, getattr(LightningModule, new)):
            notice(old, new)
            adapter.steps[new] = method
    adapter.steps.update(steps_with_iterators(run, module, adapter.steps))
    turns = Turns.of(run, module, adapter.steps.get("training_step", module.training_step))
    if turns is not None:
        notice_turns(turns)
        adapter.optimization = turns.optimization
        adapter.steps["training_step"] = turns.told(adapter.steps.get("training_step", module.training_step))
        configure = adapter.steps.get("configure_optimizers", module.configure_optimizers)
        adapter.steps["configure_optimizers"] = _noting(configure, turns.read_frequencies)
    for step, end in STEP_ENDS.items():
        method = own_method(module, end)
        older = own_method(module, "training_end") if step == "training_step" else None
        if older is not None:
            end, method = "training_end", older
        if method is not None:
            notice(end, step)
            count = 2 if step == "training_step" else 3
            adapter.steps[step] = _then(fitted(adapter.steps.get(step, getattr(module, step)), count), fitted(method, 1))
    if overrides(module, LightningModule.optimizer_step):
        adapter.steps["optimizer_step"] = _optimizer_step_of(module)
    if overrides(module, LightningModule.backward):
        adapter.steps["backward"] = _backward_of(module, turns)
    for old, today in _BARS.items():
        if overrides(module, getattr(LightningModule, old)):
            notice(old, today)
            adapter.bar_items = getattr(module, old)
    adapter.steps.update(steps_as_then(run, module))
    methods: dict[str, Callable[..., Any]] = {}
    for stage in STAGES[TrainerFn.FITTING]:
        for name in (OLDER_EPOCH_ENDS.get(stage.key), EPOCH_ENDS[stage.key]):
            method = None if name is None else own_method(module, name)
            if method is not None and name is not None:
                methods[stage.key] = method
                notice(name, f"{stage.hooks.epoch_end.__name__}, with self.log")
                break
    returned: dict[str, set[str]] = {}
    ends = EpochEnds(methods, returned)
    adapter.instead = hooks_as_then(run, [*run.callbacks, module], ends)
    adapter.first.append(ends)
    adapter.read_mapping = Reader(run, module, set(methods), returned).read
    adapter.callbacks = echo(run, module, run.callbacks)
    return adapter


def _then(step: Callable[..., Any], end: Callable[..., Any]) -> Callable[..., Any]:
    def stepped(*arguments: Any) -> Any:
        return end(step(*arguments))

    return stepped


def _noting(configure: Callable[[], Any], note: Callable[[Any], None]) -> Callable[[], Any]:
    def configured() -> Any:
        returned = configure()
        note(returned)
        return returned

    return configured


# what older versions gave, in their order; today's have no optimizer_idx
_STEP_ORDER = ("epoch", "batch_idx", "optimizer", "optimizer_idx", "closure", "on_tpu", "using_native_amp", "using_lbfgs")
_STEP_NAMES = {
    "epoch": "epoch", "current_epoch": "epoch", "epoch_nb": "epoch",
    "batch_idx": "batch_idx", "batch_nb": "batch_idx",
    "optimizer": "optimizer", "optimizer_idx": "optimizer_idx", "optimizer_i": "optimizer_idx", "opt_idx": "optimizer_idx",
    "second_order_closure": "later", "optimizer_closure": "closure", "closure": "closure",
    "on_tpu": "on_tpu", "using_native_amp": "using_native_amp", "using_lbfgs": "using_lbfgs",
}  # fmt: skip
_OF_2020 = ("optimizer_idx", "optimizer_i", "opt_idx", "second_order_closure", "on_tpu", "using_native_amp", "using_lbfgs")


def _optimizer_step_of(module: LightningModule) -> Callable[..., Any]:
    """``optimizer_step`` with the arguments that its author's version had.

    A parameter whose name is known gets what its name says; the others stand for what was given at their place, in 0.7.1's
    order where there is a fifth, or a name of those years.
    """
    parameters = inspect.signature(module.optimizer_step).parameters
    by_place = [n for n, each in parameters.items() if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    rest = [n for n, each in parameters.items() if each.kind is each.KEYWORD_ONLY and n in _STEP_NAMES]
    takes_more = any(each.kind is each.VAR_POSITIONAL for each in parameters.values())
    named_so = [name for name in parameters if name in _OF_2020]
    unnamed = [name for name in by_place[4:] if name not in _STEP_NAMES]
    required = [name for name in by_place if parameters[name].default is inspect.Parameter.empty]
    is_old = bool(named_so) or len(required) > 4 or (len(by_place) > 4 and not unnamed)
    if not is_old:
        return fitted(module.optimizer_step, 4)
    notice(
        f"optimizer_step(..., {', '.join(named_so or by_place[3:5])})",
        "optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)",
    )
    known = [_STEP_NAMES.get(name) for name in by_place]
    order = list(_STEP_ORDER)
    if "optimizer_idx" not in known and not (len(known) > 3 and known[3] is None):
        order.remove("optimizer_idx")  # today's order, with names of those years behind it
    places = [mine or (order[i] if i < len(order) else None) for i, mine in enumerate(known)]

    is_ready = not takes_more and not {"closure"} & {*places, *(_STEP_NAMES[name] for name in rest)}

    def step(epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> Any:
        number = number_of(module.trainer, optimizer)
        values = {
            "epoch": epoch,
            "batch_idx": batch_idx,
            "optimizer": optimizer,
            "optimizer_idx": number,
            "closure": closure,
            "later": None,  # backward is done by then, and a step that needs the closure has it
            "on_tpu": False,
            "using_native_amp": False,
            "using_lbfgs": False,
        }
        given = [values[place] for place in places if place is not None]
        if takes_more:
            given += [values[place] for place in order[len(given) :]]
        override = partial(module.optimizer_step, *given, **{name: values[_STEP_NAMES[name]] for name in rest})
        return with_gradients_ready(module.trainer, number, optimizer, closure, override) if is_ready else override()

    return step


_BACKWARDS = (
    # what older versions gave, in their order
    Order(("loss",), ("loss", "optimizer", "optimizer_idx")),
    Order(("loss",), ("trainer", "loss", "optimizer", "optimizer_idx")),
    Order(("loss",), ("use_amp", "loss", "optimizer", "optimizer_idx")),
)


def _backward_of(module: LightningModule, turns: Turns | None) -> Callable[..., Any]:
    """``backward`` with the arguments that its author's version had."""
    first = next(iter(inspect.signature(module.backward).parameters), "")
    order = next((each for each in _BACKWARDS if each.then[0] == first), _BACKWARDS[0])
    reading = order.read(module.backward)
    if reading is None:
        return module.backward
    gone = [name for name in order.then if name != "loss" and reading.mentions(name)]
    notice(f"backward(..., {', '.join(gone)})", "backward(loss)")

    def backward(loss: Any, *args: Any, **kwargs: Any) -> Any:
        optimizers = module.trainer.optimizers
        number = 0 if turns is None else turns.running
        values = {
            "trainer": module.trainer,
            "use_amp": False,
            "loss": loss,
            "optimizer": optimizers[number] if optimizers else None,
            "optimizer_idx": number,
        }
        return reading.call(module.backward, values, **kwargs)

    return backward
