"""What configure_optimizers returned, read once into a plan."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from leyden import errors
from leyden.checked import is_switch, plain_number
from leyden.errors import InvalidReturn, MisconfigurationException, UnknownName, did_you_mean, warn_user
from leyden.inspect.plain import zero_grad


@dataclass
class SchedulerPlan:
    """A scheduler and when it steps."""

    scheduler: Any
    name: str | None = None  # for the learning-rate monitor
    interval: str = "epoch"  # "epoch" or "step"
    frequency: Any = 1  # every so many epochs or steps
    reduce_on_plateau: bool = False
    monitor: str | None = None  # the metric that it is stepped with
    strict: bool = True  # whether a missing metric is an error
    unnamed = False  # whether the metric is the default, for nobody named one; no field: those are Lightning's

    def step(self, metric: Any) -> None:
        """Step the scheduler, with the metric where it takes one."""
        if metric is None:
            self.scheduler.step()
        else:
            self.scheduler.step(metric)

    def check_step(self) -> None:
        """Raise :class:`InvalidReturn` for a scheduler whose ``step`` cannot be called as :meth:`step` does."""
        try:
            inspect.signature(self.scheduler.step).bind(*[0.0][: self.reduce_on_plateau])
        except TypeError as error:
            raise InvalidReturn(
                f"{type(self.scheduler).__name__}.step cannot be called as schedulers are: {error}. Override lr_scheduler_step("
                "scheduler, metric) in the module, and step it there."
            ) from None
        except ValueError:  # it tells no signature
            return


_CONFIG_KEYS = {each.name for each in fields(SchedulerPlan) if each.init} | {"opt_idx"}
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "interval": (lambda given: isinstance(given, str) and given in ("epoch", "step"), '"epoch" or "step"'),
    "frequency": (lambda given: type(given) is int and given >= 1, "a whole number >= 1"),
    "monitor": (lambda given: given is None or (isinstance(given, str) and given != ""), "the name of a metric"),
    "strict": (lambda given: given is None or is_switch(given), "True or False"),
    "reduce_on_plateau": (lambda given: given is None or is_switch(given), "True or False"),
}
_DICT_KEYS = {"optimizer", "lr_scheduler", "monitor", "frequency"}
_EXPECTED = (
    "one of: an optimizer; a list or tuple of optimizers; ([optimizers], [schedulers]); a dict with the key 'optimizer' and "
    "perhaps 'lr_scheduler' and 'monitor'; a list or tuple of such dicts; None"
)


@dataclass(frozen=True)
class OptimizerPlan:
    """Optimizers and schedulers of a fit."""

    optimizers: list[Optimizer] = field(default_factory=list)
    schedulers: list[SchedulerPlan] = field(default_factory=list)

    @classmethod
    def empty(cls) -> "OptimizerPlan":
        return cls()

    def take(self, optimizers: Any, one: bool) -> None:
        """Go on with ``optimizers`` in place of these; ``one`` says whether several would not all be stepped."""
        if not isinstance(optimizers, list | tuple) or not all(map(_is_optimizer, optimizers)) or (one and len(optimizers) > 1):
            expected = "a list of one optimizer, as optimization is automatic" if one else "a list of optimizers"
            raise errors.InvalidType("trainer.optimizers", optimizers, expected)
        self.optimizers[:] = [each.optimizer if type(each) is SteppingOptimizer else each for each in optimizers]

    def due(self, interval: str, count: int, plateaus: bool = False) -> list[SchedulerPlan]:
        """The schedulers that step at ``count`` epochs or steps: those that wait for a metric, or the others.

        Asked whenever something is to be stepped, so that one that was added or replaced on the way is stepped too.
        """
        return [
            plan
            for plan in self.schedulers
            if plan.interval == interval and plan.reduce_on_plateau is plateaus and count % plan.frequency == 0
        ]

    @classmethod
    def read(cls, returned: Any, automatic: bool, several: bool = False) -> "OptimizerPlan":
        """The plan in what ``configure_optimizers`` returned; raises :class:`InvalidReturn` where there is none.

        ``several`` says whether automatic optimization has a use for more than one optimizer.
        """
        optimizers: list[Any] = []
        schedulers: list[Any] = []
        if returned is None:
            return cls()
        if isinstance(returned, Mapping):
            optimizers, schedulers = _from_dict(returned)
        elif isinstance(returned, list | tuple):
            items = list(returned)
            is_pair = len(items) == 2 and isinstance(items[0], list | tuple)
            if is_pair and isinstance(items[1], list | tuple):
                optimizers, schedulers = list(items[0]), list(items[1])
            elif is_pair and (isinstance(items[1], Mapping) or _is_scheduler(items[1])):
                optimizers, schedulers = list(items[0]), [items[1]]
            elif items and all(isinstance(item, Mapping) for item in items):
                for item in items:
                    mine, theirs = _from_dict(item)
                    optimizers += mine
                    schedulers += theirs
            else:
                optimizers = items
        else:
            optimizers = [returned]
        if not all(_is_optimizer(optimizer) for optimizer in optimizers):
            raise InvalidReturn(_refusal(returned))
        plans = [_read_scheduler(given, automatic) for given in schedulers]
        if automatic and len(optimizers) > 1 and not several:
            raise InvalidReturn(
                f"configure_optimizers returned {len(optimizers)} optimizers, and automatic optimization steps one. Set "
                f"self.automatic_optimization = False in __init__ and step them in training_step; or let training_step take "
                f"optimizer_idx, and be called for each of them in turn."
            )
        for plan in plans:
            owner = getattr(plan.scheduler, "optimizer", None)
            if owner is not None and all(owner is not optimizer for optimizer in optimizers):
                raise InvalidReturn(
                    f"configure_optimizers returned a {type(plan.scheduler).__name__} for an optimizer that it did not return. "
                    f"Return that optimizer too."
                )
        return cls(optimizers, plans)


def _refusal(returned: object) -> str:
    kinds = [_kind(item) for item in returned] if isinstance(returned, list | tuple) else _kind(returned)
    made = f"{returned.__name__}(self.parameters(), lr=...)" if isinstance(returned, type) else ""
    hint = f" Make an instance of it: return {made}." if made else ""
    return f"configure_optimizers returned {kinds}, which cannot be used.{hint} Expected {_EXPECTED}."


def _kind(given: object) -> str:
    return f"the class {given.__name__} itself" if isinstance(given, type) else type(given).__name__


def _is_optimizer(given: object) -> bool:
    return isinstance(given, Optimizer) or (hasattr(given, "param_groups") and callable(getattr(given, "step", None)))


def _is_scheduler(given: object) -> bool:
    duck = callable(getattr(given, "step", None)) and callable(getattr(given, "state_dict", None)) and not _is_optimizer(given)
    return isinstance(given, LRScheduler | ReduceLROnPlateau) or (duck and not isinstance(given, type))


def _from_dict(given: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    for key in given:
        if key not in _DICT_KEYS:
            raise UnknownName(
                f"configure_optimizers returned a dict with the key {key!r}, which means nothing. Known keys: "
                f"{', '.join(sorted(_DICT_KEYS))}.{did_you_mean(str(key), _DICT_KEYS)}"
            )
    if "optimizer" not in given:
        raise InvalidReturn(f"configure_optimizers returned a dict without the key 'optimizer'. Expected {_EXPECTED}.")
    scheduler = given.get("lr_scheduler")
    if scheduler is None:
        return [given["optimizer"]], []
    if isinstance(scheduler, list | tuple):
        raise InvalidReturn(
            "configure_optimizers returned a list under 'lr_scheduler'. Give one scheduler there, or return ([optimizers], "
            "[schedulers])."
        )
    if "monitor" in given:
        config = scheduler if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
        scheduler = {"monitor": given["monitor"], **config}
    return [given["optimizer"]], [scheduler]


def _read_scheduler(given: Any, automatic: bool) -> SchedulerPlan:
    if isinstance(given, Mapping):
        for key in given:
            if key not in _CONFIG_KEYS:
                raise UnknownName(
                    f"An lr_scheduler_config has the key {key!r}, which means nothing. Known keys: "
                    f"{', '.join(sorted(_CONFIG_KEYS - {'opt_idx'}))}.{did_you_mean(str(key), _CONFIG_KEYS)}"
                )
        if "scheduler" not in given:
            raise InvalidReturn("An lr_scheduler_config needs the key 'scheduler', which holds the scheduler itself.")
        ignored = set() if automatic else {"monitor", "strict", "reduce_on_plateau"} & given.keys()
        if ignored:
            warn_user(
                f"An lr_scheduler_config has {', '.join(sorted(ignored))}. In manual optimization they are ignored: you step the "
                f"scheduler yourself, with the metric that it wants.",
                errors.IgnoredSetting,
            )
        plan = SchedulerPlan(**{key: plain_number(each) for key, each in given.items() if key not in {"opt_idx", *ignored}})
    else:
        plan = SchedulerPlan(given)
    if automatic and not _is_scheduler(plan.scheduler):
        raise InvalidReturn(
            f"configure_optimizers returned {_kind(plan.scheduler)} as a scheduler. A scheduler has step(), state_dict() and "
            f"load_state_dict()."
        )
    if isinstance(plan.frequency, float) and plan.frequency.is_integer():
        plan.frequency = int(plan.frequency)
    for name, (fits, expected) in _VALUES.items():
        if not fits(getattr(plan, name)):
            raise InvalidReturn(f"An lr_scheduler_config has {name}={getattr(plan, name)!r}. Expected {expected}.")
    plan.reduce_on_plateau = plan.reduce_on_plateau or isinstance(plan.scheduler, ReduceLROnPlateau)
    if automatic and plan.reduce_on_plateau and plan.monitor is None:
        plan.monitor, plan.unnamed = "val_loss", True
    return plan


def requires_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` must be given a closure. One that is not PyTorch's own is given it to be safe."""
    step = inspect.unwrap(type(optimizer).step)
    parameter = inspect.signature(step).parameters.get("closure")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        return True
    return takes_closure(optimizer) and not type(optimizer).__module__.startswith("torch.optim")


def takes_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` can be given a closure at all."""
    parameters = list(inspect.signature(inspect.unwrap(type(optimizer).step)).parameters.values())[1:]
    return any(parameter.kind is not inspect.Parameter.KEYWORD_ONLY for parameter in parameters)


def step_bare(optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
    """The optimizer's own step."""
    return optimizer.step(**kwargs) if closure is None else optimizer.step(closure=closure, **kwargs)


class SteppingOptimizer:
    """An optimizer as hooks and manual optimization see it: ``step`` heeds precision, fires hooks and counts steps."""

    def __init__(
        self, optimizer: Optimizer, step: Callable[..., Any] = step_bare, toggle: Callable[..., Any] | None = None
    ) -> None:
        self.optimizer = optimizer
        self._step = step
        self._toggle = toggle

    @property  # type: ignore[misc]  # isinstance() asks for it, so that users' checks for their optimizer's class hold
    def __class__(self) -> type:
        return type(self.optimizer)

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """One step. Returns what the closure returned."""
        if closure is not None and not callable(closure):
            raise errors.InvalidType("closure", closure, "a function that computes the loss and its gradients, or None")
        return self._step(self.optimizer, closure, **kwargs)

    def zero_grad(self, set_to_none: bool = True) -> None:
        zero_grad(self.optimizer, set_to_none)

    def toggle_model(self, sync_grad: bool = True) -> Any:
        """A context in which only this optimizer's parameters require gradients; without ``sync_grad`` none are exchanged."""
        if self._toggle is None:
            raise MisconfigurationException("Only the optimizers that self.optimizers() returns inside fit know their module.")
        return self._toggle(self.optimizer) if sync_grad else self._toggle(self.optimizer, False)

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # a copy that is being made asks before it has one
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("optimizer", "_step", "_toggle", "step"):  # the last by a scheduler that is made of it, which wraps it
            self.__dict__[name] = value
        else:
            setattr(self.optimizer, name, value)

    def __repr__(self) -> str:
        return repr(self.optimizer)
