"""``optimizer_step`` as 0.5 to 0.9 called it: with the gradients ready, which it may leave for a later batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import Parameter

from leyden.checkpoint.plain_names import named_parameters
from leyden.errors import CheckpointDamaged
from leyden.state.optimizers import requires_closure
from leyden.state.progress import Done
from leyden.state.run import Run


def with_gradients_ready(run: Run, number: int, optimizer: Any, closure: Callable[[], Any], override: Callable[[], Any]) -> Any:
    """What ``override`` returns, called after ``closure``. Gradients with which it takes no step are there again the next time.

    That is what makes ``if batch_idx % 2 == 0: optimizer.step(); optimizer.zero_grad()`` a step with the gradients of two
    batches. An optimizer that evaluates the loss itself is handed ``closure`` when it is stepped.
    """
    if requires_closure(optimizer.optimizer):
        return override()
    fit, key = run.leyden_fit, str(number)
    if closure() is None:  # no gradient is new, and those that wait go on waiting
        return override()
    if key in fit.unstepped:
        waiting = fit.unstepped.pop(key)
        for name, parameter in _of(run, optimizer):
            if name in waiting:
                gradient = waiting[name].to(parameter.device)
                if gradient.shape != parameter.shape:
                    raise CheckpointDamaged(
                        f"{run.ckpt_path!r} holds a gradient of shape {tuple(gradient.shape)} that waits for a step, and {name} "
                        f"is of shape {tuple(parameter.shape)}. Take another checkpoint, or a copy of this one."
                    )
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    fit.progress.done = Done.BACKWARD
    result = override()
    if fit.progress.done < Done.OPTIMIZED:
        left = {name: each.grad.clone() for name, each in _of(run, optimizer) if each.grad is not None}
        fit.unstepped.update({key: left} if left else {})
    return result


def _of(run: Run, optimizer: Any) -> list[tuple[str, Parameter]]:
    """The optimizer's parameters, with their names in the module."""
    concerned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [(name, each) for name, each in named_parameters(run.lightning_module) if id(each) in concerned]
