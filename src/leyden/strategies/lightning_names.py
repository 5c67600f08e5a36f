"""Lightning's names and signatures of what a strategy does: a subclass that overrides them is asked by them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_STEPS = ("training_step", "validation_step", "test_step", "predict_step")


def no_closure() -> None:
    """What an overridden ``optimizer_step`` is given where forward and backward are done before the step."""


class LightningNames:
    """What is done when one of Lightning's names is not overridden, or is called by ``super()``: the house's own method."""

    lightning_restore_optimizer: bool = True
    """Whether :meth:`load_optimizer_state_dict` is called on a resume."""
    restore_checkpoint_after_setup: bool = False
    _module: nn.Module | None
    _steps: dict[str, Callable[..., Any]]
    precision: Any
    optimizers: Sequence[Optimizer] = ()
    """The optimizers of the fit, once their states are loaded or one is stepped."""

    @property
    def lightning_module(self) -> nn.Module | None:
        """The user's module, or ``None`` before the first verb."""
        return self._module

    @property
    def precision_plugin(self) -> Any:
        return self.precision

    def setup_environment(self) -> None:
        """Before the module is placed."""

    def model_to_device(self) -> None:
        """After :meth:`setup`."""

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """``batch`` with its tensors on ``device``, or on the run's."""
        return _ours(self, "move")(batch, device, dataloader_idx)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's whole state, for a checkpoint."""
        state: dict[str, Any] = _ours(self, "model_state_dict")(self._module)
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load ``checkpoint["optimizer_states"]`` into :attr:`optimizers`."""
        _ours(self, "load_optimizer_states")(self._module, self.optimizers, checkpoint["optimizer_states"])

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Before backward."""

    def post_backward(self, closure_loss: Tensor) -> None:
        """After backward."""

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any] | None = None,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Take one step; returns what ``optimizer.step`` or the closure returned."""
        return self.precision.step(optimizer, *(() if closure in (None, no_closure) else (closure,)), **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's, as the loop would have called it."""
        return self._steps["training_step"](*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's, as the loop would have called it."""
        return self._steps["validation_step"](*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's, as the loop would have called it."""
        return self._steps["test_step"](*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's, as the loop would have called it."""
        return self._steps["predict_step"](*args, **kwargs)

    def stepping(self, plainly: Callable[..., Any]) -> Callable[..., Any]:
        """What takes a step of an optimizer: ``plainly``, unless :meth:`optimizer_step` is overridden."""
        if not _overrides(self, "optimizer_step"):
            return plainly

        def step(optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
            return self.optimizer_step(optimizer, no_closure if closure is None else closure, self._module, **kwargs)

        return step


def heed_overrides(strategy: LightningNames) -> None:
    """Let the house's own methods of ``strategy`` lead to those of Lightning's that its class overrides. Before it is used."""
    cls: Any = type(strategy)
    own: dict[str, Any] = vars(strategy)
    if _overrides(strategy, "batch_to_device"):
        own["move"], own["moves"] = strategy.batch_to_device, True
    if _overrides(strategy, "lightning_module_state_dict"):
        own["model_state_dict"] = lambda module: strategy.lightning_module_state_dict()
    if _overrides(strategy, "load_optimizer_state_dict") or not strategy.lightning_restore_optimizer:

        def load(module: nn.Module, optimizers: Sequence[Optimizer], states: Sequence[Mapping[str, Any]]) -> None:
            own["optimizers"] = optimizers
            if strategy.lightning_restore_optimizer:
                strategy.load_optimizer_state_dict({"optimizer_states": list(states)})

        own["load_optimizer_states"] = load
    if _overrides(strategy, "pre_backward") or _overrides(strategy, "post_backward"):

        def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            strategy.pre_backward(loss)
            cls.backward(strategy, loss, *args, **kwargs)
            strategy.post_backward(loss)

        own["backward"] = backward
    if any(_overrides(strategy, step) for step in _STEPS):

        def route(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
            strategy._steps[name] = routed = cls.route(strategy, name, step)
            own_step: Callable[..., Any] = getattr(strategy, name, routed) if name in _STEPS else routed
            return own_step if name in _STEPS and _overrides(strategy, name) else routed

        own["route"] = route
    if next(iter(inspect.signature(cls.setup).parameters.keys() - {"self"}), "") == "trainer":
        own["setup"] = lambda module: cls.setup(strategy, module.trainer)


def _overrides(strategy: LightningNames, name: str) -> bool:
    return getattr(type(strategy), name) is not getattr(LightningNames, name)


def _ours(strategy: LightningNames, name: str) -> Callable[..., Any]:
    """The house's method, of the class: the instance's leads to an override of Lightning's name."""
    method: Callable[..., Any] = getattr(type(strategy), name).__get__(strategy)
    return method
