"""Lightning's names and signatures of what a strategy does: a subclass that overrides them is asked by them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.distributed.processes import Processes

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
    processes: Processes
    optimizers: Sequence[Optimizer] = ()
    """The optimizers of the fit, once their states are loaded or one is stepped."""

    @property
    def lightning_module(self) -> nn.Module | None:
        """The user's module, or ``None`` before the first verb."""
        return self._module

    @property
    def precision_plugin(self) -> Any:
        return self.precision

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return self.processes.world

    @world_size.setter
    def world_size(self, number: int) -> None:
        self.processes.world = number

    @property
    def global_rank(self) -> int:
        """This process among all of them."""
        return self.processes.rank

    @global_rank.setter
    def global_rank(self, number: int) -> None:
        self.processes.rank = number

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return self.processes.local_rank

    @local_rank.setter
    def local_rank(self, number: int) -> None:
        self.processes.local_rank = number

    @property
    def node_rank(self) -> int:
        """This node among all nodes."""
        return self.processes.node_rank

    @node_rank.setter
    def node_rank(self, number: int) -> None:
        self.processes.node_rank = number

    @property
    def num_nodes(self) -> int:
        """How many nodes there are."""
        return self.processes.nodes

    @num_nodes.setter
    def num_nodes(self, number: int) -> None:
        self.processes.nodes = number

    def setup_environment(self) -> None:
        """Before the module is placed."""

    def model_to_device(self) -> None:
        """After :meth:`setup`."""

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """``batch`` with its tensors on ``device``, or on the run's."""
        return _ours(self, "leyden_move")(batch, device, dataloader_idx)

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

    def leyden_stepping(self, plainly: Callable[..., Any]) -> Callable[..., Any]:
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
        own["leyden_move"], own["leyden_moves"] = strategy.batch_to_device, True
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
            strategy._steps[name] = routed = cls.leyden_route(strategy, name, step)
            own_step: Callable[..., Any] = getattr(strategy, name, routed) if name in _STEPS else routed
            return own_step if name in _STEPS and _overrides(strategy, name) else routed

        own["leyden_route"] = route
    if list(inspect.signature(cls.setup).parameters)[1:2] == ["trainer"]:
        own["setup"] = lambda module: cls.setup(strategy, module.trainer)


def _overrides(strategy: LightningNames, name: str) -> bool:
    return getattr(type(strategy), name) is not getattr(LightningNames, name)


def _ours(strategy: LightningNames, name: str) -> Callable[..., Any]:
    """The house's method, of the class: the instance's leads to an override of Lightning's name."""
    method: Callable[..., Any] = getattr(type(strategy), name).__get__(strategy)
    return method


class Entered:
    """A step that is reached through a wrapper's ``forward``."""

    def __init__(self, wrapper: nn.Module, module: nn.Module, step: Callable[..., Any]) -> None:
        self.wrapper, self.module, self.step = wrapper, module, step

    def __call__(self, *args: Any) -> Any:
        module = self.module

        def entered(*inner: Any, **named: Any) -> Any:
            del module.__dict__["forward"]  # inside the step, the module's own forward is meant
            return self.step(*inner, **named)

        module.__dict__["forward"] = entered
        try:
            return self.wrapper(*args)
        finally:
            module.__dict__.pop("forward", None)
