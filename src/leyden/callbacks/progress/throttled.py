"""ThrottledProgressBar: when a bar draws. Drawing itself is left to the bars."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from leyden.callbacks.progress.lines import Pace, epoch_name, line, of_epoch
from leyden.callbacks.progress.progress_bar import Metrics, ProgressBar
from leyden.errors import InvalidOption, InvalidType
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.types import STEP_OUTPUT

SECONDS_BETWEEN_DRAWS = 0.1
SECONDS_BETWEEN_LINES = 60.0
"""Where nothing can be drawn twice (a log file), a long epoch says this often how far it is."""
LARGEST_SHARE = 0.0025
"""Of the time, at most this share goes to drawing."""
LONGEST_WAIT = 5.0


@exact_arguments
class ThrottledProgressBar(ProgressBar):
    """Draws about ten times a second, and less often where drawing is slow. Between draws a batch costs one comparison.

    Values are read from the device only to be drawn. After each epoch one line with its metrics stays, on a screen and in
    a log file alike.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        super().__init__()
        wanted = "a number of batches >= 1, or 0 to draw nothing"
        if isinstance(refresh_rate, bool) or not isinstance(refresh_rate, int):
            raise InvalidType("refresh_rate", refresh_rate, wanted)
        if refresh_rate < 0:
            raise InvalidOption("refresh_rate", refresh_rate, wanted)
        self.clock: Callable[[], float] = time.monotonic
        """What time it is, in seconds."""
        self._refresh_rate = refresh_rate
        self._leave = leave
        self._active = False  # whether a stage of a verb is shown
        self._live = False  # whether what is shown can be drawn again
        self._due = -math.inf
        self._pace = Pace()
        self._train_pace = Pace()
        self._train_done = 0
        self._evaluated_at = 0.0  # when the last batch of an evaluation ended

    @property
    def refresh_rate(self) -> int:
        """Batches between draws, at least."""
        return self._refresh_rate

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self._refresh_rate > 0

    # -- to be filled in by a bar that draws
    @abstractmethod
    def _open(self, trainer: Run) -> bool:
        """A verb begins. Returns whether what is drawn can be drawn again."""

    @abstractmethod
    def _begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        """A stage begins, or its next loader: ``sanity``, ``train``, ``validation``, ``test`` or ``predict``."""

    @abstractmethod
    def _show(self, stage: str, description: str, done: int, total: int | None, pace: Pace, now: float, metrics: Metrics) -> None:
        """Draw."""

    @abstractmethod
    def _end(self, stage: str) -> None:
        """A stage is over."""

    @abstractmethod
    def _write(self, text: str) -> None:
        """Write a line that stays, above what is drawn."""

    @abstractmethod
    def _close(self) -> None:
        """Take away what is drawn and put everything back. May be called twice."""

    def _unless_broken(self, draw: Callable[..., Any], *arguments: Any) -> Any:
        """Draw. Where the output is closed or full, say so once and train on without a bar: it is no reason to lose a run."""
        try:
            return draw(*arguments)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and "closed file" not in str(error):
                raise
            if self._enabled:
                self._enabled = self._active = False
                with contextlib.suppress(OSError, ValueError):
                    print(f"leyden: the progress bar cannot be drawn ({error}); training goes on without it.", file=sys.stderr)
            return None

    # -- when
    def _start(self, stage: str, trainer: Run) -> None:
        if not self.is_enabled:
            return
        if not self._active:
            self._live = bool(self._unless_broken(self._open, trainer))
            self._active = True
            self._due = -math.inf if self._live else self.clock() + SECONDS_BETWEEN_LINES
        if stage != "train":
            self._current_eval_dataloader_idx = 0
        self._evaluated_at = self.clock()
        self._begin_loader(stage, self._evaluated_at)

    def _begin_loader(self, stage: str, now: float) -> None:
        done = self.trainer.progress.batch if stage == "train" else 0
        pace = self._train_pace if stage == "train" else self._pace
        pace.start(now, done)
        self._unless_broken(self._begin, stage, self._description(stage), self._total(stage), done)

    def _finish(self, stage: str) -> None:
        self._current_eval_dataloader_idx = None
        if self._active:
            self._unless_broken(self._end, stage)

    def _description(self, stage: str) -> str:
        run = self.trainer
        if stage == "train":
            return epoch_name(run.current_epoch, run.max_epochs)
        if stage == "sanity":
            return self._of_loader(self.sanity_check_description, len(run.num_sanity_val_batches))
        if stage == "validation":
            return self._of_loader(self.validation_description, len(run.num_val_batches))
        if stage == "test":
            return self._of_loader(self.test_description, len(run.num_test_batches))
        return self._of_loader(self.predict_description, len(run.num_predict_batches))

    def _of_loader(self, description: str, loaders: int) -> str:
        return description if loaders < 2 else f"{description} DataLoader {self._current_eval_dataloader_idx or 0}"

    def _total(self, stage: str) -> int | None:
        if stage == "train":
            total = self.total_train_batches
        elif stage in ("sanity", "validation"):
            total = self.total_val_batches_current_dataloader
        elif stage == "test":
            total = self.total_test_batches_current_dataloader
        else:
            total = self.total_predict_batches_current_dataloader
        return None if math.isinf(total) else int(total)

    def _draw(self, stage: str, done: int, now: float, trainer: Run, pl_module: LightningModule) -> None:
        pace = self._train_pace if stage == "train" else self._pace
        pace.tell(now, done)
        metrics = self.get_metrics(trainer, pl_module)
        if self._live:
            self._unless_broken(self._show, stage, self._description(stage), done, self._total(stage), pace, now, metrics)
            after = self.clock()
            self._due = after + min(max(SECONDS_BETWEEN_DRAWS, (after - now) / LARGEST_SHARE), LONGEST_WAIT)
        else:
            shown = {name: value for name, value in metrics.items() if name != "v_num"}
            self._unless_broken(self._write, line(self._description(stage), done, self._total(stage), pace.elapsed(now), shown))
            self._due = now + SECONDS_BETWEEN_LINES

    def _evaluated(self, stage: str, done: int, dataloader_idx: int, trainer: Run, pl_module: LightningModule) -> None:
        if not self._active:
            return
        if dataloader_idx != self._current_eval_dataloader_idx:
            self._current_eval_dataloader_idx = dataloader_idx
            self._begin_loader(stage, self._evaluated_at)
        self._evaluated_at = now = self.clock()
        if now >= self._due and done % self._refresh_rate == 0 and (self._live or stage in ("test", "predict")):
            self._draw(stage, done, now, trainer, pl_module)

    # -- hooks
    def on_sanity_check_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._start("sanity", trainer)

    def on_sanity_check_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish("sanity")

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._start("train", trainer)

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._train_done = trainer.progress.batch
        if self._active:
            self._begin_loader("train", self.clock())

    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self._train_done = done = batch_idx + 1
        if self._active and done % self._refresh_rate == 0:
            now = self.clock()
            if now >= self._due:
                self._draw("train", done, now, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if not self._active:
            return
        now = self.clock()
        pace = self._train_pace
        pace.tell(now, self._train_done)
        metrics = self.get_metrics(trainer, pl_module)
        total = self._total("train")
        if self._live:
            self._unless_broken(self._show, "train", self._description("train"), self._train_done, total, pace, now, metrics)
        self._unless_broken(
            self._write, line(self._description("train"), self._train_done, total, pace.elapsed(now), of_epoch(metrics))
        )

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish("train")

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._start("validation", trainer)

    def on_validation_batch_end(
        self,
        trainer: Run,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        stage = "sanity" if trainer.sanity_checking else "validation"
        self._evaluated(stage, batch_idx + 1, dataloader_idx, trainer, pl_module)

    def on_validation_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._finish("validation")
            if trainer.fitting:
                self._train_pace.skip(self.clock(), self._train_done)

    def on_test_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._start("test", trainer)

    def on_test_batch_end(
        self,
        trainer: Run,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated("test", batch_idx + 1, dataloader_idx, trainer, pl_module)

    def on_test_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish("test")

    def on_predict_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._start("predict", trainer)

    def on_predict_batch_end(
        self,
        trainer: Run,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated("predict", batch_idx + 1, dataloader_idx, trainer, pl_module)

    def on_predict_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish("predict")

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def disable(self) -> None:
        super().disable()
        self._stop()

    def _stop(self) -> None:
        self._active = False
        self._unless_broken(self._close)
