"""Several passes over a batch: ``optimizer_idx``, one for each optimizer, and ``truncated_bptt_steps``, one for each stretch."""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from torch import Tensor

from leyden.by_position import positional_room
from leyden.errors import ConflictingOptions, InvalidReturn
from leyden.loops.optimize import OPENED, STEPPED, Automatic
from leyden.module import LightningModule
from leyden.notices import notice
from leyden.state.fit_state import Stepping
from leyden.state.flight import Passes
from leyden.state.optimizers import SchedulerPlan
from leyden.state.run import Run
from leyden.tree import tree_map

INDEX = ("optimizer_idx", "optimizer_i")
HIDDEN = ("hiddens", "hidden")


@dataclass
class Turns:
    """Whose turn it is, and what ``training_step`` is told of it."""

    index: str | None = None
    """The argument of ``training_step`` that takes the optimizer's number."""
    needs_index: bool = False
    hidden: str | None = None
    """The argument that takes what the stretch before returned as ``hiddens``."""
    stretch: int | None = None
    """Time steps of a stretch, where a batch is split."""
    frequencies: list[int] = field(default_factory=list)
    """Batches that each optimizer has in turn; empty where every batch is for all."""
    running: int = 0
    several: bool = False
    hiddens: Any = None

    @classmethod
    def of(cls, run: Run, module: LightningModule, step: Callable[..., Any] | None) -> Turns | None:
        """What ``step`` and the options say of turns; ``None`` where nobody takes any, or the module does it by hand."""
        if step is None:  # set to None: as good as missing
            return None
        parameters = inspect.signature(step).parameters
        index = next((name for name in INDEX if name in parameters), None)
        asked = getattr(run, "leyden_classic", None)
        stretch = getattr(module, "truncated_bptt_steps", None) or getattr(asked, "stretch", None)
        hidden = next((name for name in HIDDEN if name in parameters), None)
        if not module.automatic_optimization:
            return None
        if hidden is not None and not stretch and parameters[hidden].default is inspect.Parameter.empty:
            raise InvalidReturn(
                f"{type(module).__name__}.training_step takes {hidden}, which is what the stretch of the batch before returned, "
                f"and no stretches were asked for: set Trainer(truncated_bptt_steps=...), or leave the argument out."
            )
        if index is None and not stretch:
            return None
        if stretch is not None and (isinstance(stretch, bool) or not isinstance(stretch, int) or stretch < 1):
            raise InvalidReturn(f"truncated_bptt_steps={stretch!r}. Expected a whole number of time steps >= 1.")
        required = index is not None and parameters[index].default is inspect.Parameter.empty
        return cls(index, required, hidden if stretch else None, stretch)

    def told(self, step: Callable[..., Any]) -> Callable[[Any, int], Any]:
        """``step``, as it can be called with a batch and its number alone."""
        own = {name for name in (self.index, self.hidden) if name is not None}
        most = positional_room(_without(step, own))[0]
        places = 2 if most >= 2 else int(most)

        def stepped(batch: Any, batch_idx: int) -> Any:
            told: dict[str, Any] = {}
            if self.index is not None and (self.several or self.needs_index):
                told[self.index] = self.running
            if self.hidden is not None:
                told[self.hidden] = self.hiddens
            return step(*(batch, batch_idx)[:places], **told)

        return stepped

    def read_frequencies(self, returned: Any) -> None:
        """Take ``frequency`` out of the dicts that ``configure_optimizers`` returned."""
        dicts = [each for each in returned if isinstance(each, Mapping)] if isinstance(returned, list | tuple) else []
        given = [each["frequency"] for each in dicts if each.get("frequency") is not None]
        self.frequencies = []
        if not given:
            return
        if len(given) != len(returned):
            raise InvalidReturn(
                "configure_optimizers returned optimizers with a frequency and others without. Give each of them one, or none."
            )
        for each in given:
            if isinstance(each, bool) or not isinstance(each, int) or each < 1:
                raise InvalidReturn(f"configure_optimizers returned frequency={each!r}. Expected a number of batches >= 1.")
        self.frequencies = given

    def due(self, batch_idx: int, optimizers: int) -> Sequence[int]:
        """The numbers of the optimizers whose batch it is."""
        if not self.frequencies:
            return range(optimizers)
        ends = list(accumulate(self.frequencies))
        return (bisect_right(ends, batch_idx % ends[-1]),)

    def optimization(self, run: Run) -> Stepping:
        """How ``run`` optimizes: one optimizer that gets every batch whole needs no turns."""
        self.several = len(run.leyden_fit.plan.optimizers) > 1
        if not self.several and self.stretch is None:
            return Automatic(run)
        return InTurn(run, self)


def _without(step: Callable[..., Any], names: set[str]) -> Callable[..., Any]:
    """Something with ``step``'s signature, but for ``names``."""
    signature = inspect.signature(step)

    def bare(*arguments: Any, **keywords: Any) -> Any:
        return step(*arguments, **keywords)

    left = [each for name, each in signature.parameters.items() if name not in names]
    bare.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]  # inspect looks for it there
    return bare


class InTurn:
    """Every batch is for each optimizer in turn, and only that one's parameters require gradients meanwhile.

    Each has its forward, backward and step, by :class:`Automatic`, with all that belongs to it. A batch counts as one step. A
    batch that was cut is begun anew.
    """

    begun_anew = "a batch of optimizers that take turns, or of stretches along time"

    def __init__(self, run: Run, turns: Turns) -> None:
        self.run, self.turns, self.progress = run, turns, run.leyden_fit.progress
        self.module = module = run.lightning_module
        optimizers = run.leyden_fit.plan.optimizers
        if len(optimizers) > 1 and turns.index is None:
            raise InvalidReturn(
                f"configure_optimizers returned {len(optimizers)} optimizers, and {type(module).__name__}.training_step does not "
                f"take optimizer_idx, by which it is told whose turn it is."
            )
        self.all = [Automatic(run, optimizer) for optimizer in optimizers] or [Automatic(run)]
        self.wrapped = [wrapped for each in self.all for wrapped in each.wrapped]
        self._window = 1
        self._stepped: set[int] = set()  # numbers of the optimizers that stepped in the newest batch
        if run.accumulate_grad_batches != 1 or run.leyden_options.optimization.schedule:
            self._check_accumulation()

    def _check_accumulation(self) -> None:
        batches = self.run.leyden_options.optimization.schedule or self.run.accumulate_grad_batches
        owned = [id(p) for each in self.run.leyden_fit.plan.optimizers for group in each.param_groups for p in group["params"]]
        what = None
        if self.turns.stretch is not None:
            what = "truncated_bptt_steps, which steps after every stretch of a batch"
        elif self.turns.frequencies:
            what = "the frequency of optimizers, which changes from batch to batch which of them steps"
        elif len(set(owned)) != len(owned):
            what = "optimizers that share parameters: a gradient that waits would be stepped by the wrong one"
        if what is not None:
            raise ConflictingOptions(
                f"accumulate_grad_batches={batches} does not go with {what}. Leave it out, or accumulate in training_step, with "
                f"self.automatic_optimization = False."
            )

    @property
    def contributed(self) -> list[float]:
        """Of each optimizer, the batches whose gradients wait for its step."""
        return [each.contributed for each in self.all]

    @contributed.setter
    def contributed(self, kept: Any) -> None:
        for each, contributed in zip(self.all, kept if isinstance(kept, list) else [kept] * len(self.all), strict=False):
            each.contributed = contributed

    @property
    def divisor(self) -> int:
        """Batches of the running window, so that its gradient is their mean."""
        return self.all[0].divisor

    @divisor.setter
    def divisor(self, batches: int) -> None:
        for each in self.all:
            each.divisor = batches

    def step(self, batch: Any, index: int, is_last: bool, at: int = OPENED) -> Any:
        """Train on a batch; returns what ``training_step`` returned, in a list where it was called several times."""
        run, progress, turns = self.run, self.progress, self.turns
        if progress.window == 0:
            self._window = run.leyden_fit.accumulation
            batches = 1 if self._window == 1 else run.leyden_window_length(index)
            for each in self.all:
                each.open_window(batches)
        full = is_last or progress.window + 1 >= self._window
        outputs = Passes()
        if at < STEPPED:
            self._stepped.clear()
            turns.hiddens = None
            due = turns.due(index, len(self.all))
            for stretch in self._stretches(batch):
                for number in due:
                    turns.running = number
                    with self._alone(number):
                        outputs.append(self._pass(number, stretch, index, full))
                    turns.hiddens = _hiddens_in(outputs[-1], turns.hiddens)
            turns.running = 0
            if not full:
                progress.window += 1
                return self._told(outputs)
            progress.window = 0
            self.all[0].stepped = bool(self._stepped)
            progress.step += bool(self._stepped)
        if run.leyden_fit.plan.schedulers:
            progress.done = STEPPED
            self.all[0].step_due(is_last, self._concerned)
        return self._told(outputs)

    def _told(self, outputs: Passes) -> Any:
        return outputs if len(outputs) != 1 else outputs[0]

    def _stretches(self, batch: Any) -> Iterator[Any]:
        if self.turns.stretch is None:
            return iter((batch,))
        return iter(self.module.tbptt_split_batch(batch, self.turns.stretch))

    def _alone(self, number: int) -> AbstractContextManager[Any]:
        if len(self.all) == 1:
            return nullcontext()
        return self.module.toggled_optimizer(self.all[number].optimizer)

    def _pass(self, number: int, batch: Any, index: int, full: bool) -> Any:
        """Forward, backward, and where the window is full the step of one optimizer."""
        each = self.all[number]
        if each.skips is not None:
            each.skips.meets = full
        if not full:
            if each.accumulating is None:
                return each.differentiate(batch, index, OPENED)
            with each.accumulating():
                return each.differentiate(batch, index, OPENED)
        if each.must_close:
            outputs = each.by_closure(batch, index, OPENED)
        else:
            outputs = each.differentiate(batch, index, OPENED)
            if each.skips is not None:
                each.contributed = each.skips.settle(self.progress.window + 1, each.contributed)
            if each.contributed:
                each.step_with_what_is_there(index)
        if each.contributed:
            self._stepped.add(number)
        if self.turns.stretch is not None:
            each.open_window(1)
        return outputs

    def _concerned(self, plan: SchedulerPlan) -> bool:
        """Whether a scheduler's optimizer has stepped: with frequencies, the others' wait."""
        if not self.turns.frequencies:
            return True
        owner = getattr(plan.scheduler, "optimizer", None)
        return owner is None or any(self.all[number].optimizer is owner for number in self._stepped)

    def take_up(self, carried: Any) -> None:
        """A resumed run begins inside a window: what the earlier batches brought is there already."""
        run, progress = self.run, self.progress
        self._window = run.accumulate_grad_batches
        kept = self.contributed if progress.window else [0] * len(self.all)
        for each, contributed in zip(self.all, kept, strict=True):
            each.open_window(each.divisor or run.leyden_window_length(progress.batch - progress.window))
            each.contributed = contributed
            if each.skips is not None and progress.window:
                each.skips.take_up(progress.window, contributed)

    def end_window(self, at: int = OPENED) -> None:
        """The data ended inside a window: step with what there is."""
        progress, turns = self.progress, self.turns
        self._stepped.clear()
        if at < STEPPED and progress.window:
            for number, each in enumerate(self.all):
                turns.running = number
                with self._alone(number):
                    if not each.average_what_is_there():
                        continue
                    each.step_with_what_is_there(progress.batch - 1)
                self._stepped.add(number)
            turns.running = 0
            if self._stepped:
                progress.step += 1
                progress.stepped_batches += 1
            progress.window = 0
        if at < STEPPED:
            self.all[0].stepped = bool(self._stepped)
        progress.done = STEPPED
        self.all[0].step_due(True, self._concerned)

    def tell_idle_epoch(self) -> bool:
        return self.all[0].tell_idle_epoch()

    def step_plateaus(self, interval: str) -> None:
        self.all[0].step_plateaus(interval)

    @property
    def has_stepped_scheduler(self) -> bool:
        return self.all[0].has_stepped_scheduler

    def close(self) -> None:
        for each in self.all:
            each.close()

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.all[0].manual_backward(loss, *args, **kwargs)


def _hiddens_in(outputs: Any, before: Any) -> Any:
    """What the next stretch is told: detached, so that no gradient flows back further than a stretch."""
    if not isinstance(outputs, Mapping) or outputs.get("hiddens") is None:
        return before
    return tree_map(outputs["hiddens"], Tensor, Tensor.detach)


def notice_turns(turns: Turns) -> None:
    """Say what today's way is."""
    if turns.index is not None:
        notice(f"training_step(..., {turns.index})", "manual optimization, which steps each optimizer by hand")
    if turns.stretch is not None:
        notice("truncated_bptt_steps", "manual optimization, with a loop over the time steps in training_step")
