"""RichProgressBar: the default progress bar, drawn by rich."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from leyden.callbacks.progress import lines
from leyden.callbacks.progress.cell import Canvas, Cell, in_notebook
from leyden.callbacks.progress.progress_bar import Metrics
from leyden.callbacks.progress.screen import behind, is_terminal
from leyden.callbacks.progress.throttled import ThrottledProgressBar
from leyden.checkpoint.random_state import preserved_random_state
from leyden.errors import InvalidType
from leyden.spelling import exact_arguments
from leyden.state.run import Run

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, ProgressColumn, Task, TaskID
else:
    ProgressColumn = RenderableType = Task = Any  # rich is imported where it draws


@exact_arguments
@dataclass
class RichProgressBarTheme:
    """Styles of the bar's parts, in rich's words, and the form of its metrics."""

    description: str = ""
    progress_bar: str = "#6206E0"
    progress_bar_finished: str = "#6206E0"
    progress_bar_pulse: str = "#6206E0"
    batch_progress: str = ""
    time: str = "dim"
    processing_speed: str = "dim"
    metrics: str = "italic"
    metrics_text_delimiter: str = "  "
    metrics_format: str = ".4g"


@exact_arguments
class RichProgressBar(ThrottledProgressBar):
    """One bar that shows epoch, batch, time, speed, loss and metrics; validation takes its place while it runs.

    After each epoch one line with its metrics stays. Where the output is no screen, only these lines are written.

    Args:
        refresh_rate: Batches between draws, at least; 0 draws nothing.
        leave: Whether the last bar stays when the verb ends.
        theme: Styles of the parts.
        console_kwargs: For ``rich.console.Console``.
    """

    def __init__(
        self,
        refresh_rate: int = 1,
        leave: bool = False,
        theme: RichProgressBarTheme | None = None,
        console_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(refresh_rate, leave)
        if theme is not None and not all(hasattr(theme, each.name) for each in fields(RichProgressBarTheme)):
            raise InvalidType("theme", theme, "a RichProgressBarTheme, or None")
        self.theme = RichProgressBarTheme() if theme is None else theme
        self.progress: Progress | None = None
        if console_kwargs is not None and not isinstance(console_kwargs, Mapping):
            raise InvalidType("console_kwargs", console_kwargs, "a dict of keywords for rich.console.Console")
        self._console_kwargs = dict(console_kwargs or {})
        self._console: Console | None = None
        self.leyden_file: Any = None  # the terminal on which the bar is drawn
        self.leyden_height = 0  # of what is drawn there, in lines
        self.leyden_cell: Cell | None = None  # a notebook's place for the bar, which is drawn there instead
        self.leyden_canvas: Canvas | None = None
        self.leyden_tasks: dict[str, TaskID] = {}
        self.leyden_metrics = ""

    def configure_columns(self, trainer: Run) -> list[ProgressColumn]:
        """The bar's columns, left to right. A task's ``fields`` hold ``count``, ``time`` and ``rate`` as text."""
        from rich.progress import BarColumn, TextColumn

        theme = self.theme
        return [
            TextColumn("{task.description}", style=theme.description, markup=False),
            BarColumn(
                bar_width=None,
                complete_style=theme.progress_bar,
                finished_style=theme.progress_bar_finished,
                pulse_style=theme.progress_bar_pulse,
            ),
            TextColumn("{task.fields[count]}", style=theme.batch_progress, markup=False),
            TextColumn("{task.fields[time]}", style=theme.time, markup=False),
            TextColumn("{task.fields[rate]}", style=theme.processing_speed, markup=False),
        ]

    def leyden_task(self, stage: str) -> Task | None:
        if self.progress is None or stage not in self.leyden_tasks:
            return None
        return self.progress.tasks[self.progress.task_ids.index(self.leyden_tasks[stage])]

    @property
    def train_progress_bar(self) -> Task | None:
        """rich's task of the training epoch."""
        return self.leyden_task("train")

    @property
    def val_progress_bar(self) -> Task | None:
        """rich's task of the validation."""
        return self.leyden_task("validation")

    @property
    def val_sanity_check_bar(self) -> Task | None:
        """rich's task of the sanity check."""
        return self.leyden_task("sanity")

    @property
    def test_progress_bar(self) -> Task | None:
        """rich's task of the test."""
        return self.leyden_task("test")

    def refresh(self) -> None:
        """Draw now."""
        if self.leyden_cell is not None and self.leyden_canvas is not None:
            self.leyden_cell.put(*self.leyden_canvas.drawn(self.leyden_renderable()))
        elif self.leyden_file is not None and self._console is not None:
            with self._console.capture() as drawn:
                self._console.print(self.leyden_renderable(), end="")
            rows = drawn.get().rstrip("\n").split("\n")[: self._console.height]
            self.leyden_file.write(self.leyden_erasure + "\n".join(rows))
            self.leyden_file.flush()
            self.leyden_height = len(rows)

    @property
    def leyden_erasure(self) -> str:
        """What takes away the drawing above the cursor."""
        if not self.leyden_height:
            return ""
        return (f"\x1b[{self.leyden_height - 1}A" if self.leyden_height > 1 else "") + "\r\x1b[J"

    def __getstate__(self) -> dict[str, Any]:
        # consoles and screens hold locks
        closed: dict[str, Any] = {
            "progress": None,
            "_console": None,
            "leyden_cell": None,
            "leyden_canvas": None,
            "leyden_file": None,
            "leyden_height": 0,
            "leyden_tasks": {},
        }
        return {**super().__getstate__(), **closed}

    def leyden_open(self, trainer: Run) -> bool:
        with preserved_random_state():  # rich draws from Python's generator when it is imported
            from rich.console import Console
            from rich.progress import Progress

        self._console = console = Console(**self._console_kwargs)
        forced = self._console_kwargs.get("force_terminal") or self._console_kwargs.get("force_interactive")
        drawable = console.is_interactive and not console.legacy_windows and (forced or is_terminal(console.file))
        in_cell = console.is_jupyter and in_notebook()
        if not (in_cell or (drawable and not console.is_jupyter)):
            return False
        self.progress = Progress(
            *self.configure_columns(trainer), console=console, auto_refresh=False, expand=True, get_time=lambda: self.clock()
        )
        if in_cell:
            self.leyden_cell, self.leyden_canvas = Cell(), Canvas(console, self._console_kwargs)
        else:
            self.leyden_file = console.file = behind(console.file)
            self.leyden_file.write("\x1b[?25l")  # no cursor
            self.leyden_share_screen()
        return True

    def leyden_renderable(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if self.progress is None:
            return ""
        table = self.progress.make_tasks_table([task for task in self.progress.tasks if task.visible])
        return Group(table, Text(self.leyden_metrics, style=self.theme.metrics)) if self.leyden_metrics else table

    def leyden_begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        if self.progress is None:
            return
        for task in self.leyden_tasks.values():
            self.progress.update(task, visible=False)
        fields: dict[str, Any] = {"count": lines.count(done, total), "time": lines.duration(0), "rate": ""}
        if stage in self.leyden_tasks:
            self.progress.reset(
                self.leyden_tasks[stage], total=total, completed=done, visible=True, description=description, **fields
            )
        else:
            self.leyden_tasks[stage] = self.progress.add_task(description, total=total, completed=done, **fields)

    def leyden_show(
        self, stage: str, description: str, done: int, total: int | None, pace: lines.Pace, now: float, metrics: Metrics
    ) -> None:
        if self.progress is None:
            return
        remaining = pace.remaining(done, total)
        self.progress.update(
            self.leyden_tasks[stage],
            description=description,
            completed=done,
            total=total,
            count=lines.count(done, total),
            time=lines.duration(pace.elapsed(now)) + ("" if remaining is None else f" < {lines.duration(remaining)}"),
            rate=lines.rate(pace.per_second),
        )
        self.leyden_metrics = lines.metrics_text(metrics, self.theme.metrics_text_delimiter, self.theme.metrics_format)
        self.refresh()

    def leyden_end(self, stage: str) -> None:
        if self.progress is None:
            return
        if stage != "train" and "train" in self.leyden_tasks:
            self.progress.update(self.leyden_tasks[stage], visible=False)
            self.progress.update(self.leyden_tasks["train"], visible=True)

    def leyden_hide(self) -> None:
        if self.leyden_file is not None:
            self.leyden_file.write(self.leyden_erasure)
            self.leyden_file.flush()
            self.leyden_height = 0

    def leyden_redraw(self) -> None:
        self.refresh()

    def leyden_write(self, text: str) -> None:
        if self._console is None or self.leyden_cell is not None:
            print(text, flush=True)
        elif self.leyden_file is None:
            print(text, file=self._console.file, flush=True)
        else:
            self.leyden_write_above(self.leyden_file, lines.fold(text, self._console.width))

    def leyden_close(self) -> None:
        cell, self.leyden_cell = self.leyden_cell, None
        file, self.leyden_file = self.leyden_file, None
        try:
            if cell is not None and not self._leave:
                cell.put("", "")
            if file is not None:
                file.write(("\n" if self._leave and self.leyden_height else self.leyden_erasure) + "\x1b[?25h")
                file.flush()
        finally:
            self.progress = None
            self._console = self.leyden_canvas = None
            self.leyden_height = 0
            self.leyden_tasks = {}
            self.leyden_metrics = ""
