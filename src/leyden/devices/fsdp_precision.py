"""Mixed precision for FSDP: parameters are gathered in 16 bits and kept in 32."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.devices.precision import MixedPrecision, Precision, make_precision
from leyden.errors import ConflictingOptions, InvalidOption
from leyden.spelling import exact_arguments

_NAMES = ("32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed")


@exact_arguments
class FSDPPrecision(Precision):
    """The number formats of a module in shards.

    As the precisions of one device; but with ``"16-mixed"`` and ``"bf16-mixed"`` the parameters travel between processes in 16
    bits too. They are kept, their gradients summed and the optimizer's step taken in 32.

    Args:
        precision: ``"32-true"``, ``"16-true"``, ``"bf16-true"``, ``"16-mixed"`` or ``"bf16-mixed"``.
        scaler: of the loss, with ``"16-mixed"``; left open, a :class:`torch.amp.GradScaler`.
    """

    def __init__(
        self,
        precision: Literal["32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"],
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if precision not in _NAMES:
            raise InvalidOption("precision", precision, "one of " + ", ".join(map(repr, _NAMES)))
        if scaler is not None and precision != "16-mixed":
            raise ConflictingOptions(f"scaler={scaler!r} was passed with {precision!r}, which scales nothing. Leave it out.")
        self.precision = precision
        self._use("cuda" if torch.cuda.is_available() else "cpu", scaler)

    def _use(self, device: str, scaler: torch.amp.GradScaler | None) -> None:
        name: Any = self.precision
        inner = MixedPrecision(name, device, scaler) if name.endswith("-mixed") else make_precision(name, device)
        self._inner = inner
        self.converts_input, self.has_forward_context, self.scales = inner.converts_input, inner.has_forward_context, inner.scales

    @classmethod
    def leyden_on(cls, name: Any, device: str) -> Any:
        """One for a kind of device that need not be the machine's first choice."""
        made = cls(name)
        made._use(device, None)
        return made

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What scales the loss, if anything."""
        return getattr(self._inner, "scaler", None)

    @property
    def mixed_precision_config(self) -> Any:
        """The ``MixedPrecisionPolicy`` for ``fully_shard``; ``None`` where parameters are gathered as they are kept."""
        if not self.precision.endswith("-mixed"):
            return None
        from torch.distributed.fsdp import MixedPrecisionPolicy

        kept: Any = self._inner
        return MixedPrecisionPolicy(param_dtype=kept.dtype, reduce_dtype=torch.float32)

    def convert_module(self, module: nn.Module) -> nn.Module:
        return self._inner.convert_module(module)

    def convert_input(self, data: Any) -> Any:
        return self._inner.convert_input(data)

    def forward_context(self) -> AbstractContextManager[Any]:
        return self._inner.forward_context()

    def init_context(self) -> AbstractContextManager[Any]:
        return self._inner.init_context()

    def scale(self, loss: Tensor) -> Tensor:
        return self._inner.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        self._inner.unscale(optimizer)

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        return self._inner.step(optimizer, closure, **kwargs)

    @property
    def leyden_steps_plainly(self) -> bool:
        return self._inner.leyden_steps_plainly

    def state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._inner.load_state_dict(state_dict)

    # other strategies keep the same state under another name
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if state := self.state_dict():
            checkpoint[MixedPrecision.__qualname__] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if (state := checkpoint.get(MixedPrecision.__qualname__)) and type(self).__qualname__ not in checkpoint:
            self.load_state_dict(state)
