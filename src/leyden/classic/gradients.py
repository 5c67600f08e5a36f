"""Callbacks behind ``track_grad_norm`` and ``print_nan_grads``."""

from __future__ import annotations

from typing import Any

from leyden.callback import Callback
from leyden.inspect.gradients import grad_norm
from leyden.module import LightningModule
from leyden.state.run import Run


class GradNorms(Callback):
    """``track_grad_norm``: the p-norm of each parameter's gradient, logged before each step."""

    def __init__(self, norm_type: float | int | str) -> None:
        self.norm_type = norm_type
        power = float(norm_type)
        self._today, self._then = f"grad_{power}_", f"grad_{int(power) if power.is_integer() else power}_"

    def on_before_optimizer_step(self, trainer: Run, pl_module: LightningModule, optimizer: Any) -> None:
        norms = grad_norm(pl_module, self.norm_type, group_separator="_")
        pl_module.log_dict({name.replace(self._today, self._then, 1): value for name, value in norms.items()})


class NanGrads(Callback):
    """``print_nan_grads``: names parameters whose gradients are not finite. Reads the device after every backward."""

    def on_after_backward(self, trainer: Run, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                trainer.print(f"{name}: gradient is not finite: {parameter.grad}")
