"""ThrottledProgressBar: when a bar draws. Drawing itself is left to the bars."""

import contextlib
import math
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from leyden.callbacks.progress.lines import Pace, epoch_name, line, of_epoch
from leyden.callbacks.progress.progress_bar import Metrics, ProgressBar
from leyden.callbacks.progress.screen import Screen
from leyden.errors import InvalidOption, InvalidType
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.types import STEP_OUTPUT

SECONDS_BETWEEN_DRAWS = 0.1
SLOW_STEP = 0.05
"""Seconds: batches that take longer are drawn one by one, ten a second at the most, whatever drawing costs."""
SECONDS_BETWEEN_LINES = 60.0
"""Where nothing can be drawn twice (a log file), a long epoch says this often how far it is."""
LARGEST_SHARE = 0.005
"""Of the time, at most this share goes to drawing."""
SECONDS_AT_ONCE = 0.2
"""So much may be spent on top of it, so that a change of phase is seen at once."""
LONGEST_WAIT = 5.0


@exact_arguments
class ThrottledProgressBar(ProgressBar):
    """Draws about ten times a second, and less often where drawing is slow. Between draws a batch costs one comparison.

    When a phase begins and when it ends it is drawn at once, as long as that does not take a share of the time that counts.
    Values are read from the device only to be drawn. After each epoch one line with its metrics stays, on a screen and in
    a log file alike. What anybody prints meanwhile stands above the bar.
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
        self._evaluated_done = 0
        self._stage = ""  # the phase that is shown
        self._since = (0.0, 0)  # when it was drawn last, and after how many batches
        self._shown: Metrics = {}
        self._opened = 0.0
        self._spent = 0.0  # seconds that went to drawing since then
        self._hidden = True
        self._later = 0.0  # when drawing would be due if nothing were hidden
        self._screen: Screen | None = None

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
    def _hide(self) -> None:
        """Take away what is drawn, until it is drawn again."""

    @abstractmethod
    def _redraw(self) -> None:
        """Draw once more what was drawn last."""

    @abstractmethod
    def _write(self, text: str) -> None:
        """Write lines that stay, above what is drawn."""

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
            self._opened, self._spent, self._shown = self.clock(), 0.0, {}
            self._due = -math.inf if self._live else self._opened + SECONDS_BETWEEN_LINES
        if stage != "train":
            self._current_eval_dataloader_idx = 0
        self._evaluated_at = self.clock()
        self._evaluated_done = 0
        self._begin_loader(stage, self._evaluated_at)

    def _begin_loader(self, stage: str, now: float) -> None:
        done = self.trainer.leyden_fit.progress.batch if stage == "train" else 0
        pace = self._train_pace if stage == "train" else self._pace
        pace.start(now, done)
        self._unless_broken(self._begin, stage, self._description(stage), self._total(stage), done)
        self._enter(stage, done)

    def _enter(self, stage: str, done: int) -> None:
        """Another phase is shown from here on."""
        self._stage, self._since = stage, (self.clock(), done)
        if self._draw_at_once(stage, done, self._shown):
            soon = self.clock() + SECONDS_BETWEEN_DRAWS
            self._due = soon if self._due == -math.inf else min(self._due, soon)

    def _finish(self, stage: str, trainer: Run, pl_module: LightningModule) -> None:
        """A phase is over: its last state is drawn, and what goes on is shown again."""
        if self._active:
            if stage != "train":  # which has drawn its last epoch
                self._draw_at_once(stage, self._evaluated_done, self.get_metrics(trainer, pl_module) if self._live else {})
            self._unless_broken(self._end, stage)
            self._stage = ""
        self._current_eval_dataloader_idx = None

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
            since, before = self._since
            slow = now - since >= SLOW_STEP * (done - before)
            took = self._paint(stage, done, now, metrics)
            self._spent += 0.0 if slow else took
            wait = SECONDS_BETWEEN_DRAWS if slow else min(max(SECONDS_BETWEEN_DRAWS, took / LARGEST_SHARE), LONGEST_WAIT)
            self._due = self.clock() + wait
        else:
            shown = {name: value for name, value in metrics.items() if name != "v_num"}
            self._unless_broken(self._write, line(self._description(stage), done, self._total(stage), pace.elapsed(now), shown))
            self._due = now + SECONDS_BETWEEN_LINES

    def _paint(self, stage: str, done: int, now: float, metrics: Metrics) -> float:
        """Draw; returns how many seconds that took, without the reading of the values."""
        pace = self._train_pace if stage == "train" else self._pace
        begun = self.clock()
        with self._drawing():
            self._unless_broken(self._show, stage, self._description(stage), done, self._total(stage), pace, now, metrics)
        self._since, self._shown = (now, done), metrics
        return self.clock() - begun

    @property
    def _may_draw(self) -> bool:
        """Whether a drawing that was not due takes no share of the time that counts."""
        return self._live and self._spent <= SECONDS_AT_ONCE + LARGEST_SHARE * (self.clock() - self._opened)

    def _draw_at_once(self, stage: str, done: int, metrics: Metrics) -> bool:
        if not self._active or not self._may_draw:
            return False
        self._spent += self._paint(stage, done, self.clock(), metrics)
        return True

    # -- beside what others write
    def _share_screen(self) -> None:
        """What anybody prints from here on appears above the bar."""
        if self._screen is None:
            self._screen = Screen(self._make_room, self._come_back)
            self._screen.open()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        with nullcontext() if self._screen is None else self._screen.drawing():
            self._hidden = False
            yield

    def _make_room(self) -> None:
        if not self._hidden:
            self._hidden = True
            self._later, self._due = self._due, -math.inf
            self._unless_broken(self._hide)

    def _come_back(self) -> None:
        if self._active and self._stage and self._may_draw:
            begun = self.clock()
            if self._hidden:
                self._hidden, self._due = False, self._later
            self._unless_broken(self._redraw)
            self._spent += self.clock() - begun
        elif self._hidden:
            self._due = self._later

    def _write_above(self, file: Any, text: str) -> None:
        """Write lines that stay to ``file``, which is the one that the bar is drawn on."""
        if self._screen is None:
            file.write(f"{text}\n")
            file.flush()
        else:
            self._screen.write(file, f"{text}\n")

    def _evaluated(self, stage: str, done: int, dataloader_idx: int, trainer: Run, pl_module: LightningModule) -> None:
        if not self._active:
            return
        if dataloader_idx != self._current_eval_dataloader_idx:
            self._draw_at_once(stage, self._evaluated_done, self._shown)
            self._current_eval_dataloader_idx = dataloader_idx
            self._begin_loader(stage, self._evaluated_at)
        self._evaluated_at = now = self.clock()
        self._evaluated_done = done
        if now >= self._due and done % self._refresh_rate == 0 and (self._live or stage in ("test", "predict")):
            self._draw(stage, done, now, trainer, pl_module)

    # -- hooks
    def on_sanity_check_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._start("sanity", trainer)

    def on_sanity_check_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish("sanity", trainer, pl_module)

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._start("train", trainer)

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self._train_done = trainer.leyden_fit.progress.batch
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
        self._draw_at_once("train", self._train_done, metrics)
        parts = line(self._description("train"), self._train_done, self._total("train"), pace.elapsed(now), of_epoch(metrics))
        self._unless_broken(self._write, parts)

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self._finish("train", trainer, pl_module)

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._start("validation", trainer)
        elif self._active:
            self._begin_loader("sanity", self.clock())  # now it is known how many batches there are

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
            self._finish("validation", trainer, pl_module)
            if trainer.leyden_fitting:
                self._train_pace.skip(self.clock(), self._train_done)
                if self._active:
                    self._enter("train", self._train_done)

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
        self._finish("test", trainer, pl_module)

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
        self._finish("predict", trainer, pl_module)

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def disable(self) -> None:
        super().disable()
        self._stop()

    def _stop(self) -> None:
        self._active = False
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.close()
        self._unless_broken(self._close)
        self._hidden, self._stage = True, ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_screen": None}  # it holds files
