"""Whether a part of a step is PyTorch's own, with nothing of the user's, a strategy's or a profiler's around it."""

from __future__ import annotations

from typing import Any

from torch._C._autograd import _profiler_enabled
from torch.optim import Optimizer

from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.strategies.exchanges import Exchanges
from leyden.strategies.single import SingleDeviceStrategy


def backs_plainly(run: Any) -> bool:
    """Whether a backward is the loss's own: neither module, strategy, precision nor profiler have anything to do with it."""
    strategy = run.strategy
    return not (
        overrides(run.lightning_module, LightningModule.backward)
        or type(strategy).backward is not SingleDeviceStrategy.backward
        or not strategy.leyden_backs_plainly
        or run.profiler.leyden_active
    )


def expects_nothing(strategy: Any) -> bool:
    """Whether a strategy need not be told that a backward by hand comes next."""
    return type(strategy).leyden_expect_backward is Exchanges.leyden_expect_backward


def zeroes_plainly(optimizer: Any) -> bool:
    """Whether its ``zero_grad`` is PyTorch's own."""
    return type(optimizer).zero_grad is Optimizer.zero_grad and "zero_grad" not in vars(optimizer)


def let_gradients_go(optimizer: Any) -> None:
    """What PyTorch's ``zero_grad()`` does, without the profiler's label around it, which costs more than the deed."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def zero_grad(optimizer: Any, set_to_none: bool = True) -> None:
    """``optimizer.zero_grad``, by the shorter way where nobody can tell."""
    if set_to_none and zeroes_plainly(optimizer) and not _profiler_enabled():
        let_gradients_go(optimizer)
    else:
        optimizer.zero_grad(set_to_none=set_to_none)
