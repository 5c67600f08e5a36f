"""Everything that belongs to one fit, in one object: a new fit gets a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor

from leyden.checkpoint.drift import Drift
from leyden.inspect.waiting import DataWait
from leyden.state.course import Course
from leyden.state.flight import Flight
from leyden.state.losses import LossWatch
from leyden.state.optimizers import OptimizerPlan, SteppingOptimizer
from leyden.state.progress import Progress

T = TypeVar("T")


class Stepping(Protocol):
    """How a fit optimizes: automatically or by hand."""

    wrapped: list[SteppingOptimizer]
    contributed: Any
    """Batches whose gradients wait for the next step; of each optimizer, where several take turns."""
    divisor: int
    """What their losses were divided by; 0 where a file does not say it."""
    begun_anew: str
    """In words, what of a batch is done again where a run was cut inside; "" where it is gone on with."""

    @property
    def has_stepped_scheduler(self) -> bool: ...

    def step(self, batch: Any, index: int, is_last: bool, at: int = ...) -> Any: ...

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None: ...

    def take_up(self, carried: Any) -> None: ...

    def end_window(self, at: int = ...) -> None: ...

    def tell_idle_epoch(self) -> bool: ...

    def step_plateaus(self, interval: str) -> None: ...

    def close(self) -> None: ...


@dataclass
class FitState:
    """How far a fit is, what it goes by, and what it remembers."""

    course: Course
    losses: LossWatch
    progress: Progress
    accumulation: int
    """Batches that make a step, now."""
    plan: OptimizerPlan = field(default_factory=OptimizerPlan.empty)
    flight: Flight = field(default_factory=Flight)
    optimization: Stepping | None = None
    waiting: DataWait | None = None
    """How long training has waited for its data."""
    returned: bool = False
    """Whether it is over, and no error ended it."""
    history: list[dict[str, float]] = field(default_factory=list)
    unstepped: dict[str, Any] = field(default_factory=dict)  # by an optimizer's number, gradients that its hook left for later
    """One row of metrics an epoch."""
    inside: dict[str, Any] | None = None
    """The parts of a checkpoint as they were when a limit ended training inside an epoch, before that epoch's end was told."""
    validation_follows: bool = False
    """Whether the batch that just ended is followed by a validation."""
    asked: Any = None
    """The optimizers' and schedulers' settings, as configure_optimizers left them."""
    drift: Drift | None = None
    """What training changes in the module and its ``state_dict`` does not hold, since the fit began."""
    pending: Mapping[str, Any] | None = None
    """The content of the checkpoint that a resumed run goes on from, until it is put back: what is saved before is that."""
    weights_left: Mapping[str, Any] | None = None
    """A checkpoint's, which did not fit the module before ``on_fit_start``."""
    generators_outside: dict[str, Any] | None = None
    """The states of generators that its parts hold, while a validation draws from them."""
    generators_to_restore: dict[str, Any] | None = None
    """A checkpoint's, put back once nothing else draws."""
    random_outside: dict[str, Any] | None = None
    """Training's random state while a validation draws from its own."""
    random_state_to_restore: dict[str, Any] | None = None
    """A checkpoint's, put back once nothing else draws."""
    logged: list[dict[str, Any]] | None = None
    """Of a resumed run: how far each logger had written."""
    carried: Mapping[str, Any] | None = None
    """Of a resumed run: the batch in which it was cut."""
    evaluation_to_resume: Mapping[str, Any] | None = None
    """Of a resumed run: what the validation in which it was cut depends on."""
    told_names: list[str] | None = None
    """Of a resumed run: who was told of the hook in which it was cut."""
    evaluation_cut: Mapping[str, Any] | None = None
    """The same, until its loader has been opened there."""
    saved: int = 0
    """When the newest checkpoint was taken, in ns since 1970; of a resumed run, at first, the one from which it goes on."""
    at_rest: dict[str, Any] | None = None
    """The parts of a checkpoint as they were when the fit ended: what is saved later says where training can go on."""
