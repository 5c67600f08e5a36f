"""RichProgressBar: the default progress bar, drawn by rich."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from leyden.callbacks.progress import lines
from leyden.callbacks.progress.progress_bar import Metrics
from leyden.callbacks.progress.screen import behind, is_terminal
from leyden.callbacks.progress.throttled import ThrottledProgressBar
from leyden.checkpoint.random_state import preserved_random_state
from leyden.errors import InvalidType
from leyden.spelling import exact_arguments
from leyden.state.run import Run

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
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
        self.theme = RichProgressBarTheme() if theme is None else theme
        self.progress: Progress | None = None
        if console_kwargs is not None and not isinstance(console_kwargs, Mapping):
            raise InvalidType("console_kwargs", console_kwargs, "a dict of keywords for rich.console.Console")
        self._console_kwargs = dict(console_kwargs or {})
        self._console: Console | None = None
        self._file: Any = None  # the terminal on which the bar is drawn
        self._height = 0  # of what is drawn there, in lines
        self._cell: Live | None = None  # a notebook's place for the bar, which is drawn there instead
        self._tasks: dict[str, TaskID] = {}
        self._metrics = ""

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

    def _task(self, stage: str) -> Task | None:
        if self.progress is None or stage not in self._tasks:
            return None
        return self.progress.tasks[self.progress.task_ids.index(self._tasks[stage])]

    @property
    def train_progress_bar(self) -> Task | None:
        """rich's task of the training epoch."""
        return self._task("train")

    @property
    def val_progress_bar(self) -> Task | None:
        """rich's task of the validation."""
        return self._task("validation")

    @property
    def val_sanity_check_bar(self) -> Task | None:
        """rich's task of the sanity check."""
        return self._task("sanity")

    @property
    def test_progress_bar(self) -> Task | None:
        """rich's task of the test."""
        return self._task("test")

    def refresh(self) -> None:
        """Draw now."""
        if self._cell is not None:
            self._cell.refresh()
        elif self._file is not None and self._console is not None:
            with self._console.capture() as drawn:
                self._console.print(self._renderable(), end="")
            rows = drawn.get().rstrip("\n").split("\n")[: self._console.height]
            self._file.write(self._erasure + "\n".join(rows))
            self._file.flush()
            self._height = len(rows)

    @property
    def _erasure(self) -> str:
        """What takes away the drawing above the cursor."""
        if not self._height:
            return ""
        return (f"\x1b[{self._height - 1}A" if self._height > 1 else "") + "\r\x1b[J"

    def __getstate__(self) -> dict[str, Any]:
        # consoles and screens hold locks
        closed: dict[str, Any] = {"progress": None, "_console": None, "_cell": None, "_file": None, "_height": 0, "_tasks": {}}
        return {**super().__getstate__(), **closed}

    def _open(self, trainer: Run) -> bool:
        with preserved_random_state():  # rich draws from Python's generator when it is imported
            from rich.console import Console
            from rich.live import Live
            from rich.progress import Progress

        self._console = console = Console(**self._console_kwargs)
        forced = self._console_kwargs.get("force_terminal") or self._console_kwargs.get("force_interactive")
        drawable = console.is_interactive and not console.legacy_windows and (forced or is_terminal(console.file))
        in_cell = console.is_jupyter and find_spec("ipywidgets") is not None
        if not (in_cell or (drawable and not console.is_jupyter)):
            return False
        self.progress = Progress(
            *self.configure_columns(trainer), console=console, auto_refresh=False, expand=True, get_time=lambda: self.clock()
        )
        if in_cell:
            self._cell = Live(
                console=console,
                auto_refresh=False,
                transient=not self._leave,
                get_renderable=self._renderable,
                redirect_stdout=False,  # a place of its own needs none, and the kernel flushes the files while rich prints
                redirect_stderr=False,
            )
            self._cell.start()
        else:
            self._file = console.file = behind(console.file)
            self._file.write("\x1b[?25l")  # no cursor
            self._share_screen()
        return True

    def _renderable(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if self.progress is None:
            return ""
        table = self.progress.make_tasks_table([task for task in self.progress.tasks if task.visible])
        return Group(table, Text(self._metrics, style=self.theme.metrics)) if self._metrics else table

    def _begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        if self.progress is None:
            return
        for task in self._tasks.values():
            self.progress.update(task, visible=False)
        fields: dict[str, Any] = {"count": lines.count(done, total), "time": lines.duration(0), "rate": ""}
        if stage in self._tasks:
            self.progress.reset(self._tasks[stage], total=total, completed=done, visible=True, description=description, **fields)
        else:
            self._tasks[stage] = self.progress.add_task(description, total=total, completed=done, **fields)

    def _show(
        self, stage: str, description: str, done: int, total: int | None, pace: lines.Pace, now: float, metrics: Metrics
    ) -> None:
        if self.progress is None:
            return
        remaining = pace.remaining(done, total)
        self.progress.update(
            self._tasks[stage],
            description=description,
            completed=done,
            total=total,
            count=lines.count(done, total),
            time=lines.duration(pace.elapsed(now)) + ("" if remaining is None else f" < {lines.duration(remaining)}"),
            rate=lines.rate(pace.per_second),
        )
        self._metrics = lines.metrics_text(metrics, self.theme.metrics_text_delimiter, self.theme.metrics_format)
        self.refresh()

    def _end(self, stage: str) -> None:
        if self.progress is None:
            return
        if stage != "train" and "train" in self._tasks:
            self.progress.update(self._tasks[stage], visible=False)
            self.progress.update(self._tasks["train"], visible=True)

    def _hide(self) -> None:
        if self._file is not None:
            self._file.write(self._erasure)
            self._file.flush()
            self._height = 0

    def _redraw(self) -> None:
        self.refresh()

    def _write(self, text: str) -> None:
        if self._console is None:
            print(text, flush=True)
        elif self._cell is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._file is None:
            print(text, file=self._console.file, flush=True)
        else:
            self._write_above(self._file, lines.fold(text, self._console.width))

    def _close(self) -> None:
        cell, self._cell = self._cell, None
        file, self._file = self._file, None
        try:
            if cell is not None:
                cell.stop()
            if file is not None:
                file.write(("\n" if self._leave and self._height else self._erasure) + "\x1b[?25h")
                file.flush()
        finally:
            self.progress = None
            self._console = None
            self._height = 0
            self._tasks = {}
            self._metrics = ""
