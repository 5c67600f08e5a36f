"""Trained parameters that no engine knows: they begin alike on all processes, and their gradients are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from leyden.distributed.processes import Processes
from leyden.distributed.unforeseen import Unforeseen
from leyden.strategies.mean_gradients import average_gradients
from leyden.strategies.shards import synchronise


class Unowned:
    """Parameters that optimizers were given beside those whose gradients an engine exchanges: they were made in the middle of a
    fit, or stand outside of the module. Otherwise each process would go its own way with them.

    Args:
        processes: those that read other data than this one, and this one.
        unforeseen: how processes hear that one alone was given some.
        optimizers: returns those of the fit.
        unowned: returns those of some parameters whose gradients no engine exchanges.
        others: returns what else has to begin alike, when it is new.
        changed: called when optimizers were given other parameters.
    """

    def __init__(
        self,
        processes: Processes,
        unforeseen: Unforeseen,
        optimizers: Callable[[], Sequence[Optimizer]],
        unowned: Callable[[Sequence[Tensor]], list[Tensor]],
        others: Callable[[], Iterable[Tensor]],
        changed: Callable[[], None],
    ) -> None:
        self.processes, self.unforeseen, self.optimizers = processes, unforeseen, optimizers
        self.unowned, self.others, self.changed = unowned, others, changed
        self.parameters: list[Tensor] = []
        self._known = list(others())  # kept, so that no new one gets the id of an old one
        self._given = 0

    def look(self) -> None:
        """See what optimizers have. Cheap: it is asked at every step."""
        given = given_to(self.optimizers())
        if given == self._given:
            return
        self._given = given
        self.changed()
        every = [each for optimizer in self.optimizers() for group in optimizer.param_groups for each in group["params"]]
        self.parameters = self.unowned(every)
        known = {id(each) for each in self._known}
        new = [each for each in {id(each): each for each in (*self.parameters, *self.others())}.values() if id(each) not in known]
        self._known = [*every, *self.others()]
        if new:
            met(self.unforeseen, new)
            synchronise(new)

    def average(self) -> None:
        """A backward is over: make its gradients those of all processes, with zeros where a process has none."""
        self.look()
        average_gradients(self.processes, [each for each in self.parameters if each.requires_grad])


def met(unforeseen: Unforeseen, trained: Iterable[Tensor]) -> None:
    """See that all processes train ``trained`` from this step on, which they did not before. Raises :class:`Unsupported`."""
    shapes = ", ".join(f"{list(each.shape)} {each.dtype}" for each in trained)
    unforeseen.meet(
        f"trains {shapes}",
        f"Other parameters are trained than before ({shapes})",
        "Gradients are averaged over all processes: freeze, thaw, or give new ones to the optimizer, on all at the same step.",
        what="come to that step",
    )


def given_to(optimizers: Iterable[Optimizer]) -> int:
    """A number that is another one where optimizers were given other parameters, as long as the former are alive."""
    return sum(sum(map(id, group["params"])) for optimizer in optimizers for group in optimizer.param_groups)
