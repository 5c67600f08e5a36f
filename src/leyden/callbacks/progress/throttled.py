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
from leyden.metrics.unwaited import Unwaited
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
    Values are read from the device only to be drawn, and on a GPU without waiting for it: they may be those of the drawing
    before. What a phase has come to is exact. After each epoch one line with its metrics stays, on a screen and in
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
        self.leyden_active = False  # whether a stage of a verb is shown
        self.leyden_live = False  # whether what is shown can be drawn again
        self.leyden_due = -math.inf
        self.leyden_pace = Pace()
        self.leyden_train_pace = Pace()
        self.leyden_train_done = 0
        self.leyden_evaluated_at = 0.0  # when the last batch of an evaluation ended
        self.leyden_evaluated_done = 0
        self.leyden_stage = ""  # the phase that is shown
        self.leyden_since = (0.0, 0)  # when it was drawn last, and after how many batches
        self.leyden_shown: Metrics = {}
        self.leyden_opened = 0.0
        self.leyden_spent = 0.0  # seconds that went to drawing since then
        self.leyden_hidden = True
        self.leyden_later = 0.0  # when drawing would be due if nothing were hidden
        self.leyden_screen: Screen | None = None
        self.leyden_unwaited = Unwaited()

    @property
    def refresh_rate(self) -> int:
        """Batches between draws, at least."""
        return self._refresh_rate

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self._refresh_rate > 0

    # -- to be filled in by a bar that draws
    @abstractmethod
    def leyden_open(self, trainer: Run) -> bool:
        """A verb begins. Returns whether what is drawn can be drawn again."""

    @abstractmethod
    def leyden_begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        """A stage begins, or its next loader: ``sanity``, ``train``, ``validation``, ``test`` or ``predict``."""

    @abstractmethod
    def leyden_show(
        self, stage: str, description: str, done: int, total: int | None, pace: Pace, now: float, metrics: Metrics
    ) -> None:
        """Draw."""

    @abstractmethod
    def leyden_end(self, stage: str) -> None:
        """A stage is over."""

    @abstractmethod
    def leyden_hide(self) -> None:
        """Take away what is drawn, until it is drawn again."""

    @abstractmethod
    def leyden_redraw(self) -> None:
        """Draw once more what was drawn last."""

    @abstractmethod
    def leyden_write(self, text: str) -> None:
        """Write lines that stay, above what is drawn."""

    @abstractmethod
    def leyden_close(self) -> None:
        """Take away what is drawn and put everything back. May be called twice."""

    def leyden_unless_broken(self, draw: Callable[..., Any], *arguments: Any) -> Any:
        """Draw. Where the output is closed or full, say so once and train on without a bar: it is no reason to lose a run."""
        try:
            return draw(*arguments)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and "closed file" not in str(error):
                raise
            if self._enabled:
                self._enabled = self.leyden_active = False
                with contextlib.suppress(OSError, ValueError):
                    print(f"leyden: the progress bar cannot be drawn ({error}); training goes on without it.", file=sys.stderr)
            return None

    # -- when
    def leyden_start(self, stage: str, trainer: Run) -> None:
        if not self.is_enabled:
            return
        if not self.leyden_active:
            self.leyden_live = bool(self.leyden_unless_broken(self.leyden_open, trainer))
            self.leyden_active = True
            self.leyden_opened, self.leyden_spent, self.leyden_shown = self.clock(), 0.0, {}
            self.leyden_unwaited = Unwaited()
            self.leyden_due = -math.inf if self.leyden_live else self.leyden_opened + SECONDS_BETWEEN_LINES
        if stage != "train":
            self._current_eval_dataloader_idx = 0
        self.leyden_evaluated_at = self.clock()
        self.leyden_evaluated_done = 0
        self.leyden_begin_loader(stage, self.leyden_evaluated_at)

    def leyden_begin_loader(self, stage: str, now: float) -> None:
        done = self.trainer.leyden_fit.progress.batch if stage == "train" else 0
        pace = self.leyden_train_pace if stage == "train" else self.leyden_pace
        pace.start(now, done)
        self.leyden_unless_broken(self.leyden_begin, stage, self.leyden_description(stage), self.leyden_total(stage), done)
        self.leyden_enter(stage, done)

    def leyden_enter(self, stage: str, done: int) -> None:
        """Another phase is shown from here on."""
        self.leyden_stage, self.leyden_since = stage, (self.clock(), done)
        if self.leyden_draw_at_once(stage, done, self.leyden_shown):
            soon = self.clock() + SECONDS_BETWEEN_DRAWS
            self.leyden_due = soon if self.leyden_due == -math.inf else min(self.leyden_due, soon)

    def leyden_finish(self, stage: str, trainer: Run, pl_module: LightningModule) -> None:
        """A phase is over: its last state is drawn, and what goes on is shown again."""
        if self.leyden_active:
            if stage != "train":  # which has drawn its last epoch
                self.leyden_draw_at_once(
                    stage, self.leyden_evaluated_done, self.get_metrics(trainer, pl_module) if self.leyden_live else {}
                )
            self.leyden_unless_broken(self.leyden_end, stage)
            self.leyden_stage = ""
        self._current_eval_dataloader_idx = None

    def leyden_description(self, stage: str) -> str:
        run = self.trainer
        if stage == "train":
            return epoch_name(run.current_epoch, run.max_epochs)
        if stage == "sanity":
            return self.leyden_of_loader(self.sanity_check_description, len(run.num_sanity_val_batches))
        if stage == "validation":
            return self.leyden_of_loader(self.validation_description, len(run.num_val_batches))
        if stage == "test":
            return self.leyden_of_loader(self.test_description, len(run.num_test_batches))
        return self.leyden_of_loader(self.predict_description, len(run.num_predict_batches))

    def leyden_of_loader(self, description: str, loaders: int) -> str:
        return description if loaders < 2 else f"{description} DataLoader {self._current_eval_dataloader_idx or 0}"

    def leyden_total(self, stage: str) -> int | None:
        if stage == "train":
            total = self.total_train_batches
        elif stage in ("sanity", "validation"):
            total = self.total_val_batches_current_dataloader
        elif stage == "test":
            total = self.total_test_batches_current_dataloader
        else:
            total = self.total_predict_batches_current_dataloader
        return None if math.isinf(total) else int(total)

    def leyden_draw(self, stage: str, done: int, now: float, trainer: Run, pl_module: LightningModule) -> None:
        pace = self.leyden_train_pace if stage == "train" else self.leyden_pace
        pace.tell(now, done)
        # a phase's last state is read to be drawn as it is; between, what was so a moment ago does
        with trainer.leyden_metrics.reading(self.leyden_unwaited.read) if self.leyden_live else nullcontext():
            metrics = self.get_metrics(trainer, pl_module)
        if self.leyden_live:
            since, before = self.leyden_since
            slow = now - since >= SLOW_STEP * (done - before)
            took = self.leyden_paint(stage, done, now, metrics)
            self.leyden_spent += 0.0 if slow else took
            wait = SECONDS_BETWEEN_DRAWS if slow else min(max(SECONDS_BETWEEN_DRAWS, took / LARGEST_SHARE), LONGEST_WAIT)
            self.leyden_due = self.clock() + wait
        else:
            shown = {name: value for name, value in metrics.items() if name != "v_num"}
            self.leyden_unless_broken(
                self.leyden_write, line(self.leyden_description(stage), done, self.leyden_total(stage), pace.elapsed(now), shown)
            )
            self.leyden_due = now + SECONDS_BETWEEN_LINES

    def leyden_paint(self, stage: str, done: int, now: float, metrics: Metrics) -> float:
        """Draw; returns how many seconds that took, without the reading of the values."""
        pace = self.leyden_train_pace if stage == "train" else self.leyden_pace
        begun = self.clock()
        with self.leyden_drawing():
            self.leyden_unless_broken(
                self.leyden_show, stage, self.leyden_description(stage), done, self.leyden_total(stage), pace, now, metrics
            )
        self.leyden_since, self.leyden_shown = (now, done), metrics
        return self.clock() - begun

    @property
    def leyden_may_draw(self) -> bool:
        """Whether a drawing that was not due takes no share of the time that counts."""
        return self.leyden_live and self.leyden_spent <= SECONDS_AT_ONCE + LARGEST_SHARE * (self.clock() - self.leyden_opened)

    def leyden_draw_at_once(self, stage: str, done: int, metrics: Metrics) -> bool:
        if not self.leyden_active or not self.leyden_may_draw:
            return False
        self.leyden_spent += self.leyden_paint(stage, done, self.clock(), metrics)
        return True

    # -- beside what others write
    def leyden_share_screen(self) -> None:
        """What anybody prints from here on appears above the bar."""
        if self.leyden_screen is None:
            self.leyden_screen = Screen(self.leyden_make_room, self.leyden_come_back)
            self.leyden_screen.open()

    @contextmanager
    def leyden_drawing(self) -> Iterator[None]:
        with nullcontext() if self.leyden_screen is None else self.leyden_screen.drawing():
            self.leyden_hidden = False
            yield

    def leyden_make_room(self) -> None:
        if not self.leyden_hidden:
            self.leyden_hidden = True
            self.leyden_later, self.leyden_due = self.leyden_due, -math.inf
            self.leyden_unless_broken(self.leyden_hide)

    def leyden_come_back(self) -> None:
        if self.leyden_active and self.leyden_stage and self.leyden_may_draw:
            begun = self.clock()
            if self.leyden_hidden:
                self.leyden_hidden, self.leyden_due = False, self.leyden_later
            self.leyden_unless_broken(self.leyden_redraw)
            self.leyden_spent += self.clock() - begun
        elif self.leyden_hidden:
            self.leyden_due = self.leyden_later

    def leyden_write_above(self, file: Any, text: str) -> None:
        """Write lines that stay to ``file``, which is the one that the bar is drawn on."""
        if self.leyden_screen is None:
            file.write(f"{text}\n")
            file.flush()
        else:
            self.leyden_screen.write(file, f"{text}\n")

    def leyden_evaluated(self, stage: str, done: int, dataloader_idx: int, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_newest = dataloader_idx, done
        if not self.leyden_active:
            return
        if dataloader_idx != self._current_eval_dataloader_idx:
            self.leyden_draw_at_once(stage, self.leyden_evaluated_done, self.leyden_shown)
            self._current_eval_dataloader_idx = dataloader_idx
            self.leyden_begin_loader(stage, self.leyden_evaluated_at)
        self.leyden_evaluated_at = now = self.clock()
        self.leyden_evaluated_done = done
        if now >= self.leyden_due and done % self._refresh_rate == 0 and (self.leyden_live or stage in ("test", "predict")):
            self.leyden_draw(stage, done, now, trainer, pl_module)

    # -- hooks
    def on_sanity_check_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_start("sanity", trainer)

    def on_sanity_check_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_finish("sanity", trainer, pl_module)

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_train_done = trainer.leyden_fit.progress.batch  # of an epoch that is gone on with
        self.leyden_start("train", trainer)

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_train_done = trainer.leyden_fit.progress.batch
        if self.leyden_active:
            self.leyden_begin_loader("train", self.clock())

    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self.leyden_train_done = done = batch_idx + 1
        if self.leyden_active and done % self._refresh_rate == 0:
            now = self.clock()
            if now >= self.leyden_due:
                self.leyden_draw("train", done, now, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if not self.leyden_active:
            return
        now = self.clock()
        pace = self.leyden_train_pace
        pace.tell(now, self.leyden_train_done)
        metrics = self.get_metrics(trainer, pl_module)
        self.leyden_draw_at_once("train", self.leyden_train_done, metrics)
        parts = line(
            self.leyden_description("train"),
            self.leyden_train_done,
            self.leyden_total("train"),
            pace.elapsed(now),
            of_epoch(metrics),
        )
        self.leyden_unless_broken(self.leyden_write, parts)

    def on_train_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_finish("train", trainer, pl_module)

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        if not trainer.sanity_checking:
            self.leyden_start("validation", trainer)
        elif self.leyden_active:
            self.leyden_begin_loader("sanity", self.clock())  # now it is known how many batches there are

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
        self.leyden_evaluated(stage, batch_idx + 1, dataloader_idx, trainer, pl_module)

    def on_validation_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.leyden_finish("validation", trainer, pl_module)
            if trainer.leyden_fitting:
                self.leyden_train_pace.skip(self.clock(), self.leyden_train_done)
                if self.leyden_active:
                    self.leyden_enter("train", self.leyden_train_done)

    def on_test_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_start("test", trainer)

    def on_test_batch_end(
        self,
        trainer: Run,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.leyden_evaluated("test", batch_idx + 1, dataloader_idx, trainer, pl_module)

    def on_test_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_finish("test", trainer, pl_module)

    def on_predict_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_start("predict", trainer)

    def on_predict_batch_end(
        self,
        trainer: Run,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.leyden_evaluated("predict", batch_idx + 1, dataloader_idx, trainer, pl_module)

    def on_predict_end(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_finish("predict", trainer, pl_module)

    def on_exception(self, trainer: Run, pl_module: LightningModule, exception: BaseException) -> None:
        self.leyden_stop()

    def teardown(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        self.leyden_stop()

    def disable(self) -> None:
        super().disable()
        self.leyden_stop()

    def leyden_stop(self) -> None:
        self.leyden_active = False
        screen, self.leyden_screen = self.leyden_screen, None
        if screen is not None:
            screen.close()
        self.leyden_unless_broken(self.leyden_close)
        self.leyden_hidden, self.leyden_stage = True, ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "leyden_screen": None, "leyden_unwaited": Unwaited()}  # they hold files and events
