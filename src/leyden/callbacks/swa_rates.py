"""How learning rates go over to those of stochastic weight averaging, also of parameter groups that are added on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import SWALR

from leyden.errors import InvalidOption
from leyden.state.optimizers import SchedulerPlan

_JOINED = "swa_joined"
"""In a group that was added: the scheduler's steps before it came. It stands in the optimizer's state, and is kept with it."""


@dataclass
class AnnealingPlan(SchedulerPlan):
    """A step of torch's ``SWALR``, after which each group that was added later is where an annealing of its own has it."""

    def __post_init__(self) -> None:
        optimizer = self.scheduler.optimizer
        # what a group that is added gets of itself
        optimizer.defaults.update({"swa_lr": optimizer.param_groups[-1]["swa_lr"], _JOINED: None})

    def step(self, metric: Any) -> None:
        scheduler: SWALR = self.scheduler
        groups = scheduler.optimizer.param_groups
        late = [(number, group, _copied(group["lr"])) for number, group in enumerate(groups) if _JOINED in group]
        for _, group, _ in late:
            if group[_JOINED] is None:
                group[_JOINED] = scheduler._step_count - 1
        super().step(metric)
        for number, group, before in late:
            steps, wanted = scheduler._step_count - 1 - group[_JOINED], group["swa_lr"]
            past, now = (scheduler.anneal_func(min(1.0, count / max(1, scheduler.anneal_epochs))) for count in (steps - 1, steps))
            rate = wanted * now + scheduler._get_initial_lr(before, wanted, past) * (1 - now)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
            scheduler._last_lr[number] = _copied(group["lr"])


def _copied(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate


def rates_of(swa_lrs: Any, groups: int, more: bool, now: Sequence[Any] = ()) -> list[Any]:
    """The rate of each of so many groups; with ``more``, those that were added have the last one of a list.

    ``None`` stands for the rates that they have ``now``.

    Raises :class:`InvalidOption` for a list of another length.
    """
    if swa_lrs is None:
        return [_copied(rate) for rate in now]
    if not isinstance(swa_lrs, list | tuple):
        return [swa_lrs] * groups
    if len(swa_lrs) != groups and not (more and len(swa_lrs) < groups):
        raise InvalidOption("swa_lrs", swa_lrs, f"as many learning rates as the optimizer has groups ({groups}), or one")
    return [*swa_lrs, *[swa_lrs[-1]] * (groups - len(swa_lrs))]
