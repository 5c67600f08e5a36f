"""Lightning's names and signatures of what a strategy does: a subclass that overrides them is asked by them."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.devices.empty import EmptyInit
from leyden.devices.precision import Precision
from leyden.devices.precision_names import no_closure
from leyden.distributed.processes import Processes
from leyden.strategies.own_exchanges import heed_exchanges
from leyden.strategies.unused import explained

_STEPS = ("training_step", "validation_step", "test_step", "predict_step")
RUN_HOOKS = (
    *(f"on_{stage}_{point}" for stage in ("train", "validation", "test", "predict") for point in ("start", "end")),
    "on_train_batch_start",
    "on_exception",
)
"""What a strategy may hear of a run. Who tells it asks :meth:`LightningNames.leyden_hears` first."""


class LightningNames:
    """What is done when one of Lightning's names is not overridden, or is called by ``super()``: the house's own method."""

    lightning_restore_optimizer: bool = True
    """Whether :meth:`load_optimizer_state_dict` is called on a resume."""
    restore_checkpoint_after_setup: bool = False
    """Whether weights and callbacks' states are put back after the optimizers were made, instead of before."""
    handles_gradient_accumulation: bool = False
    """Whether the strategy accumulates by itself. Nobody asks: :meth:`Strategy.leyden_accumulating` does that here."""
    strategy_name: str | None = None
    """The name by which the Trainer's ``strategy`` asks for it."""
    launcher: Any = None
    """What starts processes: ``launcher.launch(function, ...)`` runs one in each. ``None`` where there is but one process."""
    _module: nn.Module | None
    _steps: dict[str, Callable[..., Any]]
    precision: Precision
    accelerator: Any
    processes: Processes
    root_device: Any
    _optimizers: Sequence[Optimizer] = ()
    _scheduler_configs: Sequence[Any] = ()
    model: nn.Module | None
    leyden_environment: Any = None
    """What started this process."""
    leyden_layer_sync: Any = None
    """What puts layers that talk to other processes in place, where somebody gave one."""
    _plan: Any = None
    _planned = False

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers of the fit, once they are made. May be set, as those of the trainer may."""
        return self._optimizers

    @optimizers.setter
    def optimizers(self, optimizers: Sequence[Optimizer]) -> None:
        if self._planned:
            _trainer_of(self).optimizers = optimizers  # which go into the list that this one is
        else:
            self._optimizers = optimizers

    @property
    def lr_scheduler_configs(self) -> Sequence[Any]:
        """The schedulers of the fit and when each steps, likewise."""
        return self._scheduler_configs

    @lr_scheduler_configs.setter
    def lr_scheduler_configs(self, configs: Sequence[Any]) -> None:
        if self._planned:
            _trainer_of(self).lr_scheduler_configs[:] = configs
        else:
            self._scheduler_configs = configs

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Enter this class into a registry of strategies. Nothing is entered unless it is overridden."""

    @property
    def lightning_module(self) -> nn.Module | None:
        """The user's module, or ``None`` before the first verb."""
        return self._module

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
        """Before the module is placed: make the device ready."""
        self.accelerator.setup_device(self.root_device)

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
        """Called by :meth:`backward`, first."""

    def post_backward(self, closure_loss: Tensor) -> None:
        """Called by :meth:`backward`, last."""

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any] | None = None,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Take one step; returns what ``optimizer.step`` or the closure returned."""
        return self.precision.optimizer_step(optimizer, model, no_closure if closure is None else closure, **kwargs)

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

    # -- what a run tells, where it is overridden
    def on_train_start(self) -> None:
        """Training begins."""

    def on_train_end(self) -> None:
        """Training has ended."""

    def on_validation_start(self) -> None:
        """A validation begins."""

    def on_validation_end(self) -> None:
        """A validation has ended."""

    def on_test_start(self) -> None:
        """The test begins."""

    def on_test_end(self) -> None:
        """The test has ended."""

    def on_predict_start(self) -> None:
        """Predictions begin."""

    def on_predict_end(self) -> None:
        """Predictions have ended."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """A batch of training begins."""

    def on_exception(self, exception: BaseException) -> None:
        """A verb was ended by an exception."""

    def post_training_step(self) -> None:
        """After :meth:`training_step`. Override that instead."""

    @property
    def leyden_signals(self) -> list[str]:
        """Signals that end a run besides the usual ones."""
        signal = getattr(self.leyden_environment, "requeue_signal", None)
        return [signal.name] if signal is not None and self.leyden_environment.auto_requeue else []

    def leyden_hears(self, hook: str) -> bool:
        """Whether one of :data:`RUN_HOOKS` is overridden."""
        return _overrides(self, hook)

    # -- what a run asks
    def process_dataloader(self, dataloader: object) -> object:
        """What takes the place of a loader."""
        return dataloader

    @property
    def leyden_loader_process(self) -> Callable[[Any], Any] | None:
        """:meth:`process_dataloader`, where it is overridden."""
        return self.process_dataloader if _overrides(self, "process_dataloader") else None

    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Iterator[None]:
        """What a module's parameters are made in: on the run's device, in its precision, and unfilled with ``empty_init``."""
        with ExitStack() as stack:
            stack.enter_context(self.root_device)
            stack.enter_context(self.precision.tensor_init_context())
            if empty_init:
                stack.enter_context(EmptyInit())
            yield

    def model_sharded_context(self) -> AbstractContextManager[Any]:
        """What ``configure_model`` runs in besides."""
        return nullcontext()

    def setup_optimizers(self, trainer: Any) -> None:
        """Set :attr:`optimizers` and :attr:`lr_scheduler_configs`, by default from the module's ``configure_optimizers``.

        Called in ``on_fit_start``, or in ``on_train_epoch_start``, it has them made anew.
        """
        plan = self._plan
        if self._planned:
            returned = trainer.leyden_hooks.call("configure_optimizers", trainer.leyden_steps["configure_optimizers"])
            automatic, several = trainer.lightning_module.automatic_optimization, trainer.leyden_own_optimization is not None
            plan = type(trainer.leyden_fit.plan).read(returned, automatic, several)
        if plan is not None:
            self.optimizers, self.lr_scheduler_configs = plan.optimizers, plan.schedulers

    def setup_precision_plugin(self) -> None:
        """Let the precision replace the model, the optimizers and the schedulers."""
        model = self.model
        assert model is not None
        connected, self.optimizers, self.lr_scheduler_configs = self.precision.connect(
            model, list(self.optimizers), list(self.lr_scheduler_configs)
        )
        if connected is not model:
            self.model = connected

    def leyden_planned(self, plan: Any, trainer: Any) -> Any:
        """``plan``, with the optimizers and schedulers that take the place of those in it, where something is overridden.

        Without ``trainer`` there are none to be set up: nothing is trained.
        """
        self._planned = False
        self.optimizers, self.lr_scheduler_configs = plan.optimizers, plan.schedulers
        if trainer is not None:
            self._plan = plan
            self.setup_optimizers(trainer)
            self._plan = None
        if _overrides(self, "setup_precision_plugin") or self.precision.leyden_overrides("connect"):
            self.setup_precision_plugin()
        plan = replace(plan, optimizers=list(self.optimizers), schedulers=list(self.lr_scheduler_configs))
        self.optimizers, self.lr_scheduler_configs = plan.optimizers, plan.schedulers
        self._planned = trainer is not None
        return plan

    @property
    def leyden_backs_plainly(self) -> bool:
        """Whether backward is the loss's own, as far as hooks around it and the precision go."""
        return self.precision.leyden_backs_plainly and not (_overrides(self, "pre_backward") or _overrides(self, "post_backward"))

    @property
    def leyden_takes_closure(self) -> bool:
        """Whether a step is overridden, which does forward and backward by the closure that it is given."""
        return _overrides(self, "optimizer_step") or self.precision.leyden_overrides("optimizer_step")

    def leyden_stepping(self) -> Callable[..., Any]:
        """What takes a step of an optimizer: PyTorch's own method, unless something that is overridden does it."""
        precision = self.precision
        own = _overrides(self, "optimizer_step")
        if not own and not precision.leyden_overrides("optimizer_step"):
            return _step_plainly if precision.leyden_steps_plainly else precision.step

        def step(optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
            closure = no_closure if closure is None else closure
            if own:
                return self.optimizer_step(optimizer, closure, self._module, **kwargs)
            return precision.optimizer_step(optimizer, self._module, closure, **kwargs)

        return step


def _step_plainly(optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    return optimizer.step() if closure is None else optimizer.step(closure)


def heed_overrides(strategy: LightningNames) -> None:
    """Let the house's own methods of ``strategy`` lead to those of Lightning's that its class overrides. Before it is used."""
    heed_exchanges(strategy)
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
    if any(_overrides(strategy, step) for step in (*_STEPS, "post_training_step")):

        def route(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
            strategy._steps[name] = routed = cls.leyden_route(strategy, name, step)
            own_step: Callable[..., Any] = getattr(strategy, name, routed) if name in _STEPS else routed
            chosen = own_step if name in _STEPS and _overrides(strategy, name) else routed
            if name != "training_step" or not _overrides(strategy, "post_training_step"):
                return chosen

            def then_told(*args: Any) -> Any:
                outputs = chosen(*args)
                strategy.post_training_step()
                return outputs

            return then_told

        own["leyden_route"] = route
    if list(inspect.signature(cls.setup).parameters)[1:2] == ["trainer"]:
        own["setup"] = lambda module: cls.setup(strategy, module.trainer)


def _trainer_of(strategy: Any) -> Any:
    """The trainer that has made the plan: its module knows it."""
    return strategy.lightning_module.trainer


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
        except RuntimeError as error:
            told = explained(error, module)
            if told is error:
                raise
            raise told from error
        finally:
            module.__dict__.pop("forward", None)
