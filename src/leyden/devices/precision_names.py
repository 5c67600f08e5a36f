"""Lightning's names of what a precision does: a subclass that overrides them is asked by them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_CONTEXTS = {
    "training_step": "train_step_context",
    "validation_step": "val_step_context",
    "test_step": "test_step_context",
    "predict_step": "predict_step_context",
}
_CLIPPING = ("clip_gradients", "clip_grad_by_norm", "clip_grad_by_value", "main_params")


def no_closure() -> None:
    """What an overridden ``optimizer_step`` is given where forward and backward are done before the step."""


class PrecisionNames:
    """What is done when one of Lightning's names is not overridden, or is called by ``super()``: the house's own method."""

    has_forward_context: bool
    scales: bool
    forward_context: Callable[[], AbstractContextManager[Any]]
    init_context: Callable[[], AbstractContextManager[Any]]
    scale: Callable[[Tensor], Tensor]
    unscale: Callable[[Optimizer], None]
    step: Callable[..., Any]

    def convert_output(self, data: Any) -> Any:
        """Return ``data``, what a step returned, as its caller gets it. The Trainer does not ask."""
        return data

    # -- contexts
    def tensor_init_context(self) -> AbstractContextManager[Any]:
        """What tensors are made in (``configure_model``, ``trainer.init_module``)."""
        return self.init_context()

    def module_init_context(self) -> AbstractContextManager[Any]:
        """What modules are made in (``configure_model``)."""
        return self.init_context()

    def train_step_context(self) -> AbstractContextManager[Any]:
        """What ``training_step`` runs in."""
        return self.forward_context()

    def val_step_context(self) -> AbstractContextManager[Any]:
        """What ``validation_step`` runs in."""
        return self.forward_context()

    def test_step_context(self) -> AbstractContextManager[Any]:
        """What ``test_step`` runs in."""
        return self.forward_context()

    def predict_step_context(self) -> AbstractContextManager[Any]:
        """What ``predict_step`` runs in."""
        return self.forward_context()

    # -- backward and step
    def pre_backward(self, tensor: Tensor, module: nn.Module) -> Tensor:
        """Before backward: returns the loss to differentiate, scaled where the precision scales."""
        return self.scale(tensor)

    def post_backward(self, tensor: Tensor, module: nn.Module) -> Tensor:
        """After backward: returns the loss, without its graph."""
        return tensor.detach()

    def optimizer_step(
        self, optimizer: Optimizer, model: nn.Module | None, closure: Callable[[], Any] = no_closure, **kwargs: Any
    ) -> Any:
        """Take one step; ``closure`` does forward and backward. Returns what ``optimizer.step`` or the closure returned."""
        return self.step(optimizer, *(() if closure in (None, no_closure) else (closure,)), **kwargs)

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Undo the scaling on the gradients of ``optimizer``'s parameters; a second call before the step does nothing."""
        self.unscale(optimizer)

    def main_params(self, optimizer: Optimizer) -> Iterator[nn.Parameter]:
        """The parameters whose gradients are clipped."""
        for group in optimizer.param_groups:
            yield from group["params"]

    def clip_gradients(self, optimizer: Optimizer, clip_val: int | float = 0.0, gradient_clip_algorithm: Any = "norm") -> None:
        """Clip the gradients of ``optimizer``'s parameters by their total ``"norm"`` or each ``"value"``; 0 clips nothing."""
        if clip_val <= 0:
            return
        if str(getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm)) == "value":
            self.clip_grad_by_value(optimizer, clip_val)
        else:
            self.clip_grad_by_norm(optimizer, clip_val)

    def clip_grad_by_value(self, optimizer: Optimizer, clip_val: int | float) -> None:
        """Clip each gradient to at most ``clip_val`` either way."""
        nn.utils.clip_grad_value_(list(self.main_params(optimizer)), clip_val)

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: int | float) -> None:
        """Clip the gradients' total norm to ``clip_val``."""
        nn.utils.clip_grad_norm_(list(self.main_params(optimizer)), clip_val)

    # -- life
    def connect(
        self, model: nn.Module, optimizers: Sequence[Optimizer], lr_schedulers: Sequence[Any]
    ) -> tuple[nn.Module, Sequence[Optimizer], Sequence[Any]]:
        """Called once a verb, when the optimizers are there: returns what takes their place."""
        return model, optimizers, lr_schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is put together."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The states of optimizers and precision are being put back from ``checkpoint``."""

    def teardown(self) -> None:
        """The verb has ended."""

    # -- asked once, before the loop
    def leyden_overrides(self, *names: str) -> bool:
        """Whether the class has its own version of one of Lightning's names."""
        return any(getattr(type(self), name) is not getattr(PrecisionNames, name) for name in names)

    def leyden_context(self, step: str) -> Callable[[], AbstractContextManager[Any]] | None:
        """What the module's step of that name runs in; ``None`` where that does nothing."""
        name = _CONTEXTS[step]
        if self.leyden_overrides(name):
            return getattr(self, name)  # type: ignore[no-any-return]  # a method of the user's
        return self.forward_context if self.has_forward_context else None

    @property
    def leyden_backs_plainly(self) -> bool:
        """Whether backward is the loss's own."""
        return not (self.scales or self.leyden_overrides("pre_backward", "post_backward"))

    @property
    def leyden_clips(self) -> bool:
        """Whether clipping is not PyTorch's own on the optimizer's parameters."""
        return self.leyden_overrides(*_CLIPPING)
