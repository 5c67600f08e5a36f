"""A pass over the training batches in which nothing is trained: ``training_step`` alone, without backward and step."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from leyden.state.fit_state import Stepping
from leyden.state.optimizers import SteppingOptimizer
from leyden.state.run import Run

_ABSENT = object()


class ForwardOnly:
    """Stands in the place of a fit's optimization ``before``, until :meth:`give_back`."""

    begun_anew = "the pass that computes batch norm's statistics anew"

    def __init__(self, run: Run, before: Stepping) -> None:
        self.run, self.before = run, before
        self.forward = run.leyden_ready_step("training_step")
        optimizers = run.leyden_fit.plan.optimizers
        toggle = run.lightning_module.toggled_optimizer
        self.wrapped = [SteppingOptimizer(optimizer, _stand_still, toggle) for optimizer in optimizers]
        self.contributed, self.divisor, self.has_stepped_scheduler = 0, 1, False
        # manual optimization may have the optimizers themselves; a scheduler may have put a step of its own there
        self._steps = [(optimizer, vars(optimizer).get("step", _ABSENT)) for optimizer in optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
            optimizer.step = _standing_still  # type: ignore[method-assign]  # until the pass is over

    def step(self, batch: Any, index: int, is_last: bool, at: int = 0) -> Any:
        """Run ``training_step``. All batches count as one window, and the pass as one step, so that its end is saved."""
        fit = self.run.leyden_fit
        fit.progress.window = 1
        outputs = None if batch is None else self.forward(batch, index)
        if isinstance(outputs, Mapping):
            outputs = self.run.leyden_read_returned("training_step", "train", outputs)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            fit.losses.note(loss)
        if is_last:
            self._count()
        return outputs

    def _count(self) -> None:
        progress = self.run.leyden_fit.progress
        progress.window = 0
        progress.step += 1

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Nothing is trained."""

    def take_up(self, carried: Any) -> None:
        """A batch that was cut is begun anew."""

    def end_window(self, at: int = 0) -> None:
        """The data ended before it said so."""
        if self.run.leyden_fit.progress.window:
            self._count()
            self.run.leyden_fit.progress.stepped_batches += 1

    def tell_idle_epoch(self) -> bool:
        """No step is meant to be taken."""
        return False

    def step_plateaus(self, interval: str) -> None:
        """Schedulers stand still."""

    def give_back(self) -> Stepping:
        """Let the optimizers step again; what was there before."""
        for optimizer, step in self._steps:
            if step is _ABSENT:
                vars(optimizer).pop("step", None)
            else:
                optimizer.step = step  # type: ignore[method-assign]  # as it was
        self._steps = []
        return self.before

    def close(self) -> None:
        self.give_back().close()


def _standing_still(closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
    return None if closure is None else closure()


def _stand_still(optimizer: Optimizer, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
    return _standing_still(closure)
