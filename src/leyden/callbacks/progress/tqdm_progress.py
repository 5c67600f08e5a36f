"""TQDMProgressBar: a progress bar of plain text, by objects that speak tqdm's protocol."""

import math
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, TextIO

from leyden.callbacks.progress import lines
from leyden.callbacks.progress.cell import Cell, in_notebook
from leyden.callbacks.progress.progress_bar import Metrics
from leyden.callbacks.progress.screen import behind, is_terminal
from leyden.callbacks.progress.throttled import SECONDS_BETWEEN_LINES, ThrottledProgressBar
from leyden.errors import InvalidOption, InvalidType, UnknownName
from leyden.spelling import exact_arguments
from leyden.state.run import Run

_CELLS_WIDTH = 400
"""Characters of a line below a notebook's cell: it breaks where it has to."""
_WIDTH = 5
"""Characters of a number in a bar, at the least."""


class Tqdm:
    """One line of text that is drawn again in place, with the attributes and methods of ``tqdm.tqdm`` that a bar needs.

    Draws nothing where ``file`` is no screen. Arguments of tqdm's that have no meaning here are taken and left alone.
    """

    leyden_open: ClassVar["weakref.WeakSet[Tqdm]"] = weakref.WeakSet()
    leyden_cells: ClassVar[dict[int, Cell]] = {}
    """In a notebook: where the bars of a position are drawn, one after another."""

    @staticmethod
    def format_num(n: float | str) -> str:
        """``n`` in at least five characters where it is no whole number, so that a bar does not jump about: ``0.500``."""
        short = f"{n:.3g}".replace("e+0", "e+").replace("e-0", "e-") if not isinstance(n, str) else n
        text = short if len(short) < len(str(n)) else str(n)
        if isinstance(n, int) or "e" in text:
            return text
        if "." not in text and len(text) < _WIDTH:
            try:
                float(text)
            except ValueError:
                return text
            text += "."
        return text.ljust(_WIDTH, "0")

    def __init__(
        self,
        desc: str | None = None,
        total: float | None = None,
        leave: bool | None = True,
        file: TextIO | None = None,
        ncols: int | None = None,
        disable: bool | None = False,
        position: int | None = 0,
        initial: int = 0,
        **others: Any,
    ) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self.desc = desc or ""
        self.total = total
        self.leave = leave
        self.fp = file
        self.ncols = ncols
        self.disable = bool(disable) or not is_terminal(file)
        self.leyden_in_cell = file in (None, sys.stdout) and in_notebook()
        self.pos = position or 0
        self.initial = initial
        self.n = initial
        self.postfix = ""
        self.start_t = self.clock()
        self.pace: lines.Pace | None = None
        self.leyden_drawn = 0
        self.leyden_closed = False
        Tqdm.leyden_open.add(self)

    def __str__(self) -> str:
        total = None if self.total is None or self.total == float("inf") else int(self.total)
        now = self.clock()
        elapsed = now - self.start_t
        speed = (self.n - self.initial) / elapsed if elapsed > 0 else 0.0
        left = (total - self.n) / speed if total is not None and speed > 0 else None
        if self.pace is not None:
            speed, left = self.pace.per_second, self.pace.remaining(self.n, total)
        times = lines.duration(elapsed) + ("" if left is None else f"<{lines.duration(left)}")
        inside = ", ".join(part for part in (times, lines.rate(speed), self.postfix) if part)
        head = f"{self.desc}: " if self.desc else ""
        width = self.leyden_width()
        if not total:
            return lines.cut(f"{head}{self.n} [{inside}]", width)
        share = min(self.n / total, 1.0)
        head += f"{share:4.0%}"
        tail = f"{lines.count(self.n, total)} [{inside}]"
        room = min(width - lines.columns(head) - lines.columns(tail) - 3, 40)
        if room < 5:
            return lines.cut(f"{head} {tail}", width)
        return f"{head}|{'#' * int(share * room):<{room}}| {tail}"

    def update(self, n: int = 1) -> None:
        """``n`` more are done. Draws nothing."""
        self.n += n

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        """Draw."""
        if not self.disable and not self.leyden_closed:
            self.leyden_put(str(self))

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        self.desc = (desc or "").removesuffix(": ")
        if refresh:
            self.refresh()

    def set_postfix(self, ordered_dict: Mapping[str, Any] | None = None, refresh: bool = True, **more: Any) -> None:
        """Show values by name at the line's end."""
        values = {**(ordered_dict or {}), **more}
        self.set_postfix_str(
            ", ".join(f"{lines.in_a_line(name)}={lines.number(value)}" for name, value in values.items()), refresh
        )

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        self.postfix = s
        if refresh:
            self.refresh()

    def reset(self, total: float | None = None) -> None:
        """Begin again, with another total if one is given."""
        if total is not None:
            self.total = total
        self.n = self.initial
        self.start_t = self.clock()

    def unpause(self) -> None:
        """Nothing to do: pauses are left out by the caller."""

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Take the line away, until it is drawn again."""
        if self.leyden_drawn:
            self.leyden_put("")

    def close(self) -> None:
        """End the line, or take it away where ``leave`` is false."""
        if self.leyden_closed:
            return
        if self.leave and not self.disable:
            self.refresh()
            if self.leyden_drawn and not self.pos and not self.leyden_in_cell:
                self.leyden_file.write("\n")
        else:
            self.clear()
        self.leyden_closed = True
        Tqdm.leyden_open.discard(self)
        if not any(other.pos == self.pos for other in Tqdm.leyden_open):
            Tqdm.leyden_cells.pop(self.pos, None)
        if not self.disable:
            self.leyden_file.flush()

    @classmethod
    def write(cls, s: str, file: TextIO | None = None, end: str = "\n", nolock: bool = False) -> None:
        """Write a line above all open bars."""
        shown = [bar for bar in cls.leyden_open if bar.leyden_drawn and not bar.leyden_in_cell]
        for bar in shown:
            bar.clear()
        print(s, end=end, file=file, flush=True)
        for bar in shown:
            bar.refresh()

    def __enter__(self) -> "Tqdm":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def leyden_file(self) -> TextIO:
        file: TextIO = behind(sys.stdout if self.fp is None else self.fp)
        return file

    def leyden_width(self) -> int:
        return (self.ncols or (_CELLS_WIDTH if self.leyden_in_cell else shutil.get_terminal_size().columns)) - 1

    def leyden_put(self, text: str) -> None:
        size = lines.columns(text)
        if self.leyden_in_cell:
            self.leyden_cells.setdefault(self.pos, Cell()).put(text)
            self.leyden_drawn = size
            return
        blank = " " * max(self.leyden_drawn - size, 0)
        down, up = "\n" * self.pos, f"\x1b[{self.pos}A" if self.pos else ""
        self.leyden_file.write(f"{down}\r{text}{blank}" + (f"\r{text}" if blank else "") + up)
        self.leyden_file.flush()
        self.leyden_drawn = size


def convert_inf(x: int | float | None) -> int | float | None:
    """``x``, or ``None`` where it is no finite number: a bar without a known end."""
    return x if x is not None and math.isfinite(x) else None


@exact_arguments
class TQDMProgressBar(ThrottledProgressBar):
    """A bar of plain text; validation takes its place while it runs. After each epoch one line with its metrics stays.

    Override ``init_train_tqdm`` and its like to change the bars, or to return real ``tqdm`` objects; override
    ``get_metrics`` and the descriptions to change what they say.

    Args:
        refresh_rate: Batches between draws, at least; 0 draws nothing.
        process_position: Lines to leave free above the bar, for other programs on the same screen.
        leave: Whether bars stay when they end.
    """

    BAR_FORMAT: ClassVar[str] = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    """For real tqdm objects: tqdm's ``bar_format``."""

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate, leave)
        if isinstance(process_position, bool) or not isinstance(process_position, int):
            raise InvalidType("process_position", process_position, "a number of lines >= 0")
        if process_position < 0:
            raise InvalidOption("process_position", process_position, "a number of lines >= 0")
        self._process_position = process_position
        self.leyden_bars: dict[str, Any] = {}
        self.leyden_ended: dict[str, Any] = {}  # bars that are gone from the screen, for who asks them

    @property
    def process_position(self) -> int:
        """Lines left free above the bar."""
        return self._process_position

    # -- the bars, to be overridden
    def init_sanity_tqdm(self) -> Tqdm:
        """The bar of the sanity check."""
        return self.leyden_bar(self.sanity_check_description, leave=False)

    def init_train_tqdm(self) -> Tqdm:
        """The bar of training: one for all epochs."""
        return self.leyden_bar(self.train_description, leave=self._leave)

    def init_validation_tqdm(self) -> Tqdm:
        """The bar of one validation."""
        return self.leyden_bar(self.validation_description, leave=self._leave and not self.trainer.leyden_fitting)

    def init_test_tqdm(self) -> Tqdm:
        """The bar of a test."""
        return self.leyden_bar(self.test_description, leave=self._leave)

    def init_predict_tqdm(self) -> Tqdm:
        """The bar of a prediction."""
        return self.leyden_bar(self.predict_description, leave=self._leave)

    def leyden_bar(self, description: str, leave: bool) -> Tqdm:
        bar = Tqdm(desc=description, position=self._process_position, leave=leave, file=sys.stdout, disable=self.is_disabled)
        bar.clock = self.clock
        return bar

    @property
    def train_progress_bar(self) -> Any:
        """What ``init_train_tqdm`` returned."""
        return self.leyden_named("train")

    @train_progress_bar.setter
    def train_progress_bar(self, bar: Any) -> None:
        self.leyden_bars["train"] = bar

    main_progress_bar = train_progress_bar  # its name until 1.9

    @property
    def val_progress_bar(self) -> Any:
        """What ``init_validation_tqdm`` returned, or ``init_sanity_tqdm`` until there is a validation."""
        validated = "validation" in {**self.leyden_bars, **self.leyden_ended} and "sanity" not in self.leyden_bars
        return self.leyden_named("validation" if validated or "sanity" not in self.leyden_ended | self.leyden_bars else "sanity")

    @val_progress_bar.setter
    def val_progress_bar(self, bar: Any) -> None:
        self.leyden_bars["validation"] = bar

    @property
    def test_progress_bar(self) -> Any:
        """What ``init_test_tqdm`` returned."""
        return self.leyden_named("test")

    @test_progress_bar.setter
    def test_progress_bar(self, bar: Any) -> None:
        self.leyden_bars["test"] = bar

    @property
    def predict_progress_bar(self) -> Any:
        """What ``init_predict_tqdm`` returned."""
        return self.leyden_named("predict")

    @predict_progress_bar.setter
    def predict_progress_bar(self, bar: Any) -> None:
        self.leyden_bars["predict"] = bar

    def leyden_named(self, stage: str) -> Any:
        bar = self.leyden_bars.get(stage)
        if bar is not None:
            self.leyden_count(stage, bar)
        elif stage not in self.leyden_ended:
            raise UnknownName(f"The {stage} progress bar of {type(self).__name__} is there once its stage has begun.")
        return self.leyden_ended[stage] if bar is None else bar

    def leyden_count(self, stage: str, bar: Any) -> None:
        """Tell a bar how many batches are done, which it knows only of those that were drawn."""
        done = self.leyden_train_done if stage == "train" else self.leyden_evaluated_done
        if hasattr(bar, "n") and self._refresh_rate:
            bar.n = done if done == bar.total else done - done % self._refresh_rate

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print above the bars."""
        others = [bar for bar in self.leyden_bars.values() if not isinstance(bar, Tqdm)]
        if not others or "flush" in kwargs:
            super().print(*args, sep=sep, **kwargs)
        else:
            others[0].write(sep.join(map(str, args)), **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "leyden_bars": {}, "leyden_ended": {}}  # bars hold files

    def leyden_open(self, trainer: Run) -> bool:
        return True

    def leyden_begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        bar = self.leyden_bars.get(stage)
        if bar is None:
            if stage != "train" and isinstance(self.leyden_bars.get("train"), Tqdm):
                self.leyden_bars["train"].clear()
            make: Callable[[], Any] = {
                "sanity": self.init_sanity_tqdm,
                "train": self.init_train_tqdm,
                "validation": self.init_validation_tqdm,
                "test": self.init_test_tqdm,
                "predict": self.init_predict_tqdm,
            }[stage]
            with nullcontext() if self.leyden_screen is None else self.leyden_screen.aside():
                bar = self.leyden_bars[stage] = make()
            if isinstance(bar, Tqdm) and not bar.disable and not bar.leyden_in_cell:
                self.leyden_share_screen()
        if isinstance(bar, Tqdm):
            bar.pace = self.leyden_train_pace if stage == "train" else self.leyden_pace
            bar.initial = done
            bar.total = total
            bar.reset()
            bar.set_description(description, refresh=False)
            # a file takes no second drawing: there, a line now and then
            self.leyden_live = not bar.disable
            if bar.disable and self.leyden_due == float("-inf"):
                self.leyden_due = self.clock() + SECONDS_BETWEEN_LINES
            return
        self.leyden_live = True
        bar.initial = done
        bar.reset(total=total)
        bar.total = total  # None is no change to reset
        bar.n = done
        bar.set_description(description, refresh=False)

    def leyden_show(
        self, stage: str, description: str, done: int, total: int | None, pace: lines.Pace, now: float, metrics: Metrics
    ) -> None:
        bar = self.leyden_bars[stage]
        bar.n, bar.total = done, total
        if stage != "sanity" and not (stage == "validation" and "train" in self.leyden_bars):
            bar.set_postfix(metrics, refresh=False)
        bar.refresh()

    def leyden_end(self, stage: str) -> None:
        bar = self.leyden_bars.pop(stage, None)
        if bar is not None:
            self.leyden_keep(stage, bar)
        train = self.leyden_bars.get("train")
        if train is not None:
            self.leyden_live = not train.disable if isinstance(train, Tqdm) else True

    def leyden_hide(self) -> None:
        for bar in self.leyden_bars.values():
            bar.clear()

    def leyden_redraw(self) -> None:
        bar = self.leyden_bars.get(self.leyden_stage)
        if bar is not None:
            bar.refresh()

    def leyden_write(self, text: str) -> None:
        bar = next(iter(self.leyden_bars.values()), None)
        if isinstance(bar, Tqdm):
            whole = bar.disable or bar.leyden_in_cell
            self.leyden_write_above(bar.leyden_file, text if whole else lines.fold(text, bar.leyden_width()))
        elif bar is None or not hasattr(bar, "write"):
            print(text, flush=True)
        else:
            with nullcontext() if self.leyden_screen is None else self.leyden_screen.aside():
                bar.write(text)

    def leyden_close(self) -> None:
        bars, self.leyden_bars = self.leyden_bars, {}
        for stage, bar in bars.items():
            self.leyden_keep(stage, bar)

    def leyden_keep(self, stage: str, bar: Any) -> None:
        bar.close()
        self.leyden_count(stage, bar)
        self.leyden_ended[stage] = bar
