"""LightningDoublePrecisionModule: a module whose steps get their floating-point tensors in 64 bits."""

from typing import Any

import torch
from torch import nn

from leyden.devices.precision import DoublePrecision
from leyden.spelling import exact_arguments


@exact_arguments
class LightningDoublePrecisionModule(nn.Module):
    """Wraps ``pl_module``: what its steps and its forward are given comes in 64 bits. Its parameters stay as they are.

    ``Trainer(precision="64-true")`` needs no wrapper, and converts the parameters too.
    """

    def __init__(self, pl_module: nn.Module) -> None:
        super().__init__()
        self.module: Any = pl_module

    @property
    def device(self) -> torch.device:
        """That of the module inside."""
        return self.module.device  # type: ignore[no-any-return]  # a module of the user's

    @property
    def dtype(self) -> torch.dtype:
        """That of the module inside, whose parameters stay as they are."""
        return self.module.dtype  # type: ignore[no-any-return]  # a module of the user's

    def leyden_called(self, name: str, *args: Any, **kwargs: Any) -> Any:
        convert = DoublePrecision().convert_input
        return getattr(self.module, name)(*convert(args), **convert(kwargs))

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.leyden_called("training_step", *args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.leyden_called("validation_step", *args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.leyden_called("test_step", *args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.leyden_called("predict_step", *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.leyden_called("__call__", *args, **kwargs)
