"""The number formats a run computes in: full, half and double precision, and mixtures by autocast."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.devices.cuda import cuda_not_begun
from leyden.devices.precision_names import PrecisionNames
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, MisconfigurationException, Unsupported
from leyden.spelling import exact_arguments
from leyden.tree import tree_map


class Precision(PrecisionNames):
    """Full precision, ``"32-true"``, and the base of the others: it leaves everything as PyTorch does it.

    Subclass it to bring a precision of your own. The attributes say in advance which methods do anything, so that a
    training step passes over those that do not.
    """

    precision: str = "32-true"
    """The number format in Lightning's words."""
    converts_input: bool = False
    """Whether :meth:`convert_input` changes anything."""
    has_forward_context: bool = False
    """Whether :meth:`forward_context` does anything."""
    scales: bool = False
    """Whether the loss is scaled, so that gradients must be unscaled before they are read."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A class that brings one of these methods need not say so besides."""
        super().__init_subclass__(**kwargs)
        flags = {"converts_input": "convert_input", "has_forward_context": "forward_context", "scales": "scale"}
        for flag, method in flags.items():
            if method in vars(cls) and flag not in vars(cls):
                setattr(cls, flag, True)
        if "precision" not in vars(cls) and isinstance(vars(cls).get("name"), str):
            cls.precision = vars(cls)["name"]

    @property
    def name(self) -> str:
        """Another word for :attr:`precision`."""
        return self.precision

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Return ``module`` with its parameters and buffers in the format they are kept in."""
        return module

    def convert_input(self, data: Any) -> Any:
        """Return ``data`` with its floating-point tensors in the format the module expects."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """What the steps of the module run in."""
        return nullcontext()

    def init_context(self) -> AbstractContextManager[Any]:
        """What the module's parameters are made in (``configure_model``)."""
        return nullcontext()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` on."""
        return loss

    def backward(self, tensor: Tensor, model: nn.Module | None, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> None:
        """Compute gradients of ``tensor``, which :meth:`pre_backward` returned."""
        tensor.backward(*args, **kwargs)

    def unscale(self, optimizer: Optimizer) -> None:
        """Undo :meth:`scale` on the gradients of ``optimizer``'s parameters. A second call before the step does nothing."""

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Take one optimizer step; returns what ``optimizer.step`` or the closure returned."""
        return optimizer.step(**kwargs) if closure is None else optimizer.step(closure, **kwargs)

    @property
    def leyden_backs_plainly(self) -> bool:
        return super().leyden_backs_plainly and type(self).backward is Precision.backward

    @property
    def leyden_steps_plainly(self) -> bool:
        """Whether a step is the optimizer's own."""
        return type(self).step is Precision.step

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; empty where there is nothing."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.precision!r})"


class _TruePrecision(Precision):
    """Parameters, inputs and computation in one format other than 32 bits."""

    converts_input = True
    has_forward_context = True

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.precision = name
        self.dtype = dtype

    def convert_module(self, module: nn.Module) -> nn.Module:
        # not module.to(dtype=...): that takes complex tensors along, and drops their imaginary part
        return module._apply(self._convert)  # type: ignore[no-any-return]  # torch has no annotation there

    def convert_input(self, data: Any) -> Any:
        return tree_map(data, Tensor, self._convert)

    def _convert(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def forward_context(self) -> AbstractContextManager[Any]:
        return default_dtype(self.dtype)

    def init_context(self) -> AbstractContextManager[Any]:
        return default_dtype(self.dtype)


@exact_arguments
class HalfPrecision(_TruePrecision):
    """``"16-true"`` or ``"bf16-true"``: everything in 16 bits. Half the memory; the loss is not scaled."""

    def __init__(self, precision: Literal["16-true", "bf16-true"] = "16-true") -> None:
        dtypes = {"16-true": torch.float16, "bf16-true": torch.bfloat16}
        if precision not in dtypes:
            raise InvalidOption("precision", precision, '"16-true" or "bf16-true"')
        super().__init__(precision, dtypes[precision])


@exact_arguments
class DoublePrecision(_TruePrecision):
    """``"64-true"``: everything in 64 bits."""

    def __init__(self) -> None:
        super().__init__("64-true", torch.float64)


@exact_arguments
class MixedPrecision(Precision):
    """``"16-mixed"`` or ``"bf16-mixed"``: parameters in 32 bits, products in 16 (``torch.autocast``).

    With ``"16-mixed"`` the loss is scaled, since small gradients would vanish: a ``torch.amp.GradScaler`` chooses the
    factor and skips a step whose gradients overflowed. Pass ``scaler`` to bring your own.
    """

    has_forward_context = True

    def __init__(
        self,
        precision: Literal["16-mixed", "bf16-mixed"],
        device: str | torch.device,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if precision not in ("16-mixed", "bf16-mixed"):
            raise InvalidOption("precision", precision, '"16-mixed" or "bf16-mixed"')
        if precision == "bf16-mixed" and scaler is not None:
            raise ConflictingOptions(f"scaler={scaler!r} was passed with 'bf16-mixed', which scales nothing. Leave it out.")
        self.precision = precision
        self.device = torch.device(device).type
        self.dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
        with cuda_not_begun():  # a scaler asks whether there is a GPU
            self.scaler = torch.amp.GradScaler(self.device) if precision == "16-mixed" and scaler is None else scaler
        self.scales = self.scaler is not None
        self._unscaled: dict[int, tuple[Tensor, Tensor]] = {}  # optimizers not yet stepped with: a parameter, its gradient
        self._stepped: set[int] = set()  # ids of the optimizers that stepped under the present scale

    def forward_context(self) -> AbstractContextManager[Any]:
        return self.autocast_context_manager()

    def autocast_context_manager(self) -> torch.autocast:
        """``torch.autocast`` in the 16 bits of this precision."""
        # With the cache on, a forward under no_grad inside a step would leave casts of the weights without gradients.
        return torch.autocast(self.device, dtype=self.dtype, cache_enabled=False)

    def scale(self, loss: Tensor) -> Tensor:
        if self.scaler is None:
            return loss
        self._settle()
        return self.scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        if self.scaler is None or self._holds_unscaled(id(optimizer)):
            return
        parameter = _first_with_gradient(optimizer)
        if parameter is None or parameter.grad is None:
            return
        self._refuse_second_step(optimizer)
        self.scaler.unscale_(optimizer)
        self._unscaled[id(optimizer)] = (parameter, parameter.grad)

    def _holds_unscaled(self, optimizer: int) -> bool:
        """Whether the optimizer's gradients are unscaled already, and still the same: not zeroed since."""
        if optimizer not in self._unscaled:
            return False
        parameter, gradient = self._unscaled[optimizer]
        return parameter.grad is gradient

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Run ``closure``, then step unless the gradients overflowed.

        The scale is adapted when the next loss is scaled, so several optimizers may step under one scale. Raises
        :class:`Unsupported` for optimizers that call the closure themselves (LBFGS) with ``"16-mixed"``, and
        :class:`MisconfigurationException` when gradients were not computed since the optimizer's last step.
        """
        if self.scaler is None:
            return super().step(optimizer, closure, **kwargs)
        if _calls_closure(optimizer):
            raise Unsupported(
                f"{type(optimizer).__name__} evaluates the loss several times in a step, which loss scaling "
                f"(precision='16-mixed') cannot follow. Use precision='bf16-mixed' or '32-true'."
            )
        result = closure() if closure is not None else None
        if _first_with_gradient(optimizer) is None:
            return result
        self._refuse_second_step(optimizer)
        returned = self.scaler.step(optimizer, **kwargs)
        self._unscaled.pop(id(optimizer), None)
        self._stepped.add(id(optimizer))
        return result if closure is not None else returned

    def _refuse_second_step(self, optimizer: Optimizer) -> None:
        if id(optimizer) in self._stepped:
            raise MisconfigurationException(
                f"{type(optimizer).__name__} would step a second time without a newly scaled loss in between, and under "
                f"precision='16-mixed' its gradients would be unscaled twice. In manual optimization call "
                f"self.manual_backward(loss), not loss.backward(), before each step."
            )

    def _settle(self) -> None:
        """Adapt the scale to how the last steps went, unless an optimizer has yet to step under it."""
        if self.scaler is None or not (self._stepped or self._unscaled):
            return
        if not any(self._holds_unscaled(optimizer) for optimizer in self._unscaled):
            self.scaler.update()
            self._stepped.clear()
            self._unscaled.clear()

    def state_dict(self) -> dict[str, Any]:
        if self.scaler is None:
            return {}
        self._settle()
        return dict(self.scaler.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if self.scaler is not None and state_dict:
            self._stepped.clear()
            self._unscaled.clear()
            self.scaler.load_state_dict(dict(state_dict))


def _first_with_gradient(optimizer: Optimizer) -> Tensor | None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                return parameter  # type: ignore[no-any-return]  # optimizers hold tensors only
    return None


def _calls_closure(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, torch.optim.LBFGS)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let new floating-point tensors be of ``dtype`` for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_NAMES: dict[str | int, str] = {
    64: "64-true",
    32: "32-true",
    16: "16-mixed",
    "64": "64-true",
    "32": "32-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
}
PRECISIONS = ("64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed")
"""Every precision that can be asked for by name."""


def make_precision(precision: str | int | None, device: str | torch.device = "cpu") -> Precision:
    """The policy that ``Trainer(precision=...)`` asks for, on ``device``.

    ``None`` means 32, and ``16`` means ``"16-mixed"``. Raises :class:`InvalidOption` for unknown values and
    :class:`Unsupported` for ``"transformer-engine"``.
    """
    if precision is None:
        return Precision()
    expected = "one of " + ", ".join(repr(name) for name in (*PRECISIONS, *_NAMES))
    if isinstance(precision, bool) or not isinstance(precision, str | int):
        raise InvalidType("precision", precision, expected)
    name: Any = _NAMES.get(precision, precision)
    if isinstance(name, str) and name.startswith("transformer-engine"):
        raise Unsupported(f"precision={precision!r} is not offered. Use precision='bf16-mixed'.")
    if name == "32-true":
        return Precision()
    if name == "64-true":
        if torch.device(device).type == "mps":
            raise Unsupported("precision='64-true' does not exist on MPS devices. Use accelerator='cpu', or precision='32-true'.")
        return DoublePrecision()
    if name in ("16-true", "bf16-true"):
        return HalfPrecision(name)
    if name in ("16-mixed", "bf16-mixed"):
        return MixedPrecision(name, device)
    raise InvalidOption("precision", precision, expected)
