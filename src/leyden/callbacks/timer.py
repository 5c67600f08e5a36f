"""Timer: how long a stage has taken, and an end to training after a given time."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal

from leyden.callback import Callback
from leyden.checked import read_duration
from leyden.distributed.rank_zero import rank_zero_info
from leyden.enums import LightningEnum
from leyden.errors import InvalidOption
from leyden.module import LightningModule
from leyden.spelling import for_tests
from leyden.state.run import Run
from leyden.state.stage import RunningStage
from leyden.types import STEP_OUTPUT


class Interval(LightningEnum):
    """What :class:`Timer`'s ``interval`` may be."""

    step = "step"
    epoch = "epoch"


@for_tests("clock")
class Timer(Callback):
    """Measure training, validation and test, and stop training when ``duration`` is used up.

    The time that training took is kept in checkpoints: a resumed run has what was left.

    Args:
        duration: ``"DD:HH:MM:SS"``, a :class:`~datetime.timedelta` or a dict of its keywords; ``None`` for no limit.
        interval: Where training may end: ``"step"`` (after any batch) or ``"epoch"`` (after an epoch).
        verbose: Whether to log when the time is over.
        clock: Tells seconds that never go back. For tests.

    Raises:
        InvalidOption: a duration or interval that cannot be read.
    """

    def __init__(
        self,
        duration: str | timedelta | Mapping[str, float] | None = None,
        interval: Literal["step", "epoch"] = "step",
        verbose: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limit = read_duration("duration", duration)
        self._duration = None if limit is None else limit.total_seconds()
        if interval not in ("step", "epoch"):
            raise InvalidOption("interval", interval, '"step" or "epoch"')
        self._interval = interval
        self._verbose = verbose
        self.__clock = clock
        self.__start: dict[RunningStage, float] = {}
        self.__end: dict[RunningStage, float] = {}
        self._offset = 0.0  # what training took before this run resumed it
        self.__step_deadline = float("inf")  # on the clock

    def start_time(self, stage: str = RunningStage.TRAINING) -> float | None:
        """What the clock said when ``stage`` began; ``None`` where it has not."""
        return self.__start.get(_stage(stage))

    def end_time(self, stage: str = RunningStage.TRAINING) -> float | None:
        """What the clock said when ``stage`` ended; ``None`` where it has not."""
        return self.__end.get(_stage(stage))

    def time_elapsed(self, stage: str = RunningStage.TRAINING) -> float:
        """Seconds that ``stage`` has taken; for training, those before a resume included."""
        stage = _stage(stage)
        offset = self._offset if stage is RunningStage.TRAINING else 0.0
        if stage not in self.__start:
            return offset
        end = self.__end.get(stage)
        return (self.__clock() if end is None else end) - self.__start[stage] + offset

    def time_remaining(self, stage: str = RunningStage.TRAINING) -> float | None:
        """Seconds of ``duration`` that are left; ``None`` where there is no limit."""
        return None if self._duration is None else self._duration - self.time_elapsed(stage)

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and RunningStage.TRAINING in self.__start:  # an earlier fit's time is not this one's
            self.__forget_training()

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__stop_if_over(trainer)  # a run that resumes with no time left trains no batch

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__begin(RunningStage.TRAINING)
        if self._duration is not None and self._interval == "step":
            self.__step_deadline = self.__start[RunningStage.TRAINING] + self._duration - self._offset

    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if self.__clock() >= self.__step_deadline:
            self.__stop_if_over(trainer)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__stop_if_over(trainer)

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__finish(RunningStage.TRAINING)

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__begin(RunningStage.VALIDATING)

    def on_validation_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__finish(RunningStage.VALIDATING)

    def on_test_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__begin(RunningStage.TESTING)

    def on_test_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__finish(RunningStage.TESTING)

    def state_dict(self) -> dict[str, Any]:
        return {"time_elapsed": {str(stage): self.time_elapsed(stage) for stage in RunningStage}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__forget_training()
        self._offset = float(state_dict.get("time_elapsed", {}).get(str(RunningStage.TRAINING), 0.0))

    def __forget_training(self) -> None:
        self.__start.pop(RunningStage.TRAINING, None)
        self.__end.pop(RunningStage.TRAINING, None)
        self._offset = 0.0
        self.__step_deadline = float("inf")

    def __begin(self, stage: RunningStage) -> None:
        self.__start[stage] = self.__clock()
        self.__end.pop(stage, None)

    def __finish(self, stage: RunningStage) -> None:
        self.__end[stage] = self.__clock()

    def __stop_if_over(self, trainer: Run) -> None:
        left = self.time_remaining()
        if left is None or left > 0:
            return
        if self._verbose and not trainer.should_stop:
            rank_zero_info(f"The time is over: training took {timedelta(seconds=int(self.time_elapsed()))}.")
        trainer.leyden_stop(because=f"the time limit of {timedelta(seconds=self._duration or 0)} was reached")


def _stage(given: str) -> RunningStage:
    try:
        return RunningStage(given)
    except ValueError as error:
        raise InvalidOption("stage", given, f"one of {', '.join(repr(str(each)) for each in RunningStage)}") from error
