"""Parameters averaged every few steps, where gradients are not exchanged between all processes: torch's post-local SGD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from leyden.errors import InvalidOption, Unsupported, warn_user


class Averaging:
    """Of a strategy that was given ``period`` (steps, or ``None``) and the state of a communication hook."""

    def __init__(self, period: int | None, state: Any) -> None:
        self.period, self.state = period, state
        self._averager: Any = None
        self._begun_with = 0
        self._told = False
        if period is not None and not self.is_asked:
            warn_user(
                f"model_averaging_period={period} does nothing without local SGD: all average their gradients at every step. "
                f"Pass ddp_comm_state=PostLocalSGDState(...) and ddp_comm_hook=post_localSGD_hook, or leave it out."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_averager": None}  # it holds a process group

    @property
    def is_asked(self) -> bool:
        """Whether parameters are averaged at all."""
        return type(self.state).__name__ == "PostLocalSGDState"

    @property
    def steps(self) -> int:
        """Steps of optimizers so far."""
        return self._begun_with if self._averager is None else self._averager.step

    def begin(self, steps: int) -> None:
        """A fit begins, or goes on after ``steps``."""
        self._averager, self._begun_with = None, steps

    def after(self, step: Callable[..., Any], optimizers: Sequence[Optimizer]) -> Callable[..., Any]:
        """``step``, after which parameters are averaged where it is time."""
        if not self.is_asked:
            return step
        if self.period is None:
            raise InvalidOption(
                "model_averaging_period",
                None,
                "a number of steps, since ddp_comm_state is a PostLocalSGDState",
                "Without it the processes would never come together again.",
            )
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
        from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer

        for optimizer in optimizers:
            if isinstance(optimizer, ZeroRedundancyOptimizer | PostLocalSGDOptimizer):
                raise Unsupported(
                    f"model_averaging_period={self.period} averages parameters, and {type(optimizer).__name__} exchanges them "
                    f"too. Return a plain optimizer from configure_optimizers."
                )
        if self._averager is None:
            self._averager = PeriodicModelAverager(self.period, self.state.start_localSGD_iter)
            self._averager.step = self._begun_with
        averager = self._averager

        def stepped(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            outcome = step(optimizer, *args, **kwargs)
            averager.average_parameters([each for group in optimizer.param_groups for each in group["params"]])
            return outcome

        return stepped

    def note_save(self) -> None:
        """A checkpoint is being saved: it has room for the first process's parameters alone."""
        averager = self._averager
        if averager is None or self._told or averager.step <= averager.warmup_steps:
            return
        if (averager.step - 1 - averager.warmup_steps) % averager.period:
            self._told = True
            warn_user(
                f"A checkpoint was saved between two averagings (model_averaging_period={self.period}): it holds the first "
                f"process's parameters, and all processes of a run that goes on from it begin with these. Save at steps that are "
                f"averaged: {averager.warmup_steps + 1}, {averager.warmup_steps + 1 + averager.period} ..."
            )
