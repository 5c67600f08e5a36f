"""Progress bars: when they draw, what stays, and what they leave behind. Hooks are called in the order of a real run."""

from __future__ import annotations

import io
import os
import pickle
import pty
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kit import Clock

from leyden.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from leyden.callbacks.progress import RichProgressBarTheme
from leyden.callbacks.progress.tqdm_progress import Tqdm
from leyden.errors import InvalidOption, InvalidType, MisconfigurationException
from leyden.metrics.metrics import Metrics

BOTH = pytest.mark.parametrize("bar_class", [RichProgressBar, TQDMProgressBar])


class Reading(dict[str, Any]):
    """Metrics that count how often they are read."""


class FakeRun:
    """As much of a run as a progress bar reads, and its hooks in order."""

    def __init__(
        self, bar: Any, train: float = 4, val: tuple[float, ...] = (2,), epochs: int | None = 2, seconds: float = 0.5
    ) -> None:
        self.bar = bar
        self.clock = bar.clock = Clock(1000.0)
        self.seconds = seconds
        self.num_training_batches = train
        self.num_val_batches = self.num_sanity_val_batches = list(val)
        self.num_test_batches = self.num_predict_batches = list(val)
        self.is_global_zero = True
        self.sanity_checking = False
        self.leyden_fitting = self.training = False
        self.check_val_every_n_epoch = 1
        self.current_epoch = 0
        self.max_epochs = epochs
        self.leyden_fit = SimpleNamespace(progress=SimpleNamespace(batch=0), losses=SimpleNamespace(latest=None))
        self.loggers: list[Any] = [SimpleNamespace(version=12)]
        self.metrics: dict[str, float] = {"loss": 0.41239}
        self.reads = 0
        self.leyden_metrics = Metrics()

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        self.reads += 1
        return self.metrics

    def call(self, hook: str, *arguments: Any) -> None:
        getattr(self.bar, hook)(self, None, *arguments)

    def batches(self, stage: str, counts: list[float], first: int = 0) -> None:
        for loader, total in enumerate(counts):
            for index in range(first, int(min(total, 4))):
                self.clock.now += self.seconds
                self.call(f"on_{stage}_batch_end", None, None, index, *([] if stage == "train" else [loader]))

    def evaluate(self, stage: str) -> None:
        self.call(f"on_{stage}_start")
        self.batches(stage, self.num_val_batches)
        self.call(f"on_{stage}_end")

    def fit(self, epochs: int = 2, validate: bool = True, first: int = 0) -> None:
        self.leyden_fitting = True
        self.call("setup", "fit")
        if validate:
            self.sanity_checking = True
            self.call("on_sanity_check_start")
            self.evaluate("validation")
            self.call("on_sanity_check_end")
            self.sanity_checking = False
        self.call("on_train_start")
        for epoch in range(epochs):
            self.current_epoch = epoch
            self.leyden_fit.progress.batch = first
            self.call("on_train_epoch_start")
            self.batches("train", [self.num_training_batches], first)
            if validate:
                self.evaluate("validation")
            self.call("on_train_epoch_end")
            first = 0
        self.call("on_train_end")
        self.call("teardown", "fit")
        self.leyden_fitting = False

    def verb(self, name: str, stage: str) -> None:
        self.call("setup", name)
        self.evaluate(stage)
        self.call("teardown", name)


class Terminal:
    """A real terminal as ``sys.stdout``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        self.master, slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.file = os.fdopen(slave, "w", newline="")
        self.seen = ""
        write = self.file.write

        class File:
            """Reads what was written at once: a terminal's own buffer is small."""

            def __getattr__(file, name: str) -> Any:
                return getattr(self.file, name)

            def write(file, text: str) -> int:
                for at in range(0, len(text), 512):
                    write(text[at : at + 512])
                    self.file.flush()
                    self.read()
                return len(text)

        self.stdout: Any = File()
        self._monkeypatch = monkeypatch

    def turn_on(self) -> None:
        """To be called in the test itself: pytest sets ``sys.stdout`` after its fixtures."""
        self._monkeypatch.setattr(sys, "stdout", self.stdout)

    def read(self) -> str:
        """All that was written so far."""
        while True:
            try:
                self.seen += os.read(self.master, 65536).decode()
            except BlockingIOError:
                return self.seen

    @property
    def text(self) -> str:
        """What was written, without colours and moves."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.read())

    def close(self) -> None:
        self.file.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal(monkeypatch, 100)
    yield made
    made.close()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal(monkeypatch, 30)
    yield made
    made.close()


# -- a log file
@BOTH
def test_a_log_file_gets_one_line_an_epoch(bar_class: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(bar_class())
    run.metrics = {"loss": 0.41239, "acc_step": 1.0, "acc_epoch": 0.75, "val_loss": 2.0}
    run.fit()
    assert capsys.readouterr().out == (
        "Epoch 1/2: 4/4 in 0:00:03, 1.3 it/s, loss: 0.4124, acc_epoch: 0.75, val_loss: 2\n"
        "Epoch 2/2: 4/4 in 0:00:03, 1.3 it/s, loss: 0.4124, acc_epoch: 0.75, val_loss: 2\n"
    )
    assert run.reads == 2


@BOTH
def test_a_log_file_gets_nothing_from_evaluation(bar_class: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(bar_class())
    run.verb("validate", "validation")
    run.verb("test", "test")
    run.verb("predict", "predict")
    assert capsys.readouterr().out == ""
    assert run.reads == 0


@BOTH
def test_a_long_epoch_says_now_and_then_how_far_it_is(bar_class: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(bar_class(), train=float("inf"), epochs=None, seconds=40)
    run.fit(epochs=1, validate=False)
    assert capsys.readouterr().out == (
        "Epoch 1: 2 in 0:01:20, 40.0 s/it, loss: 0.4124\n"
        "Epoch 1: 4 in 0:02:40, 40.0 s/it, loss: 0.4124\n"
        "Epoch 1: 4 in 0:02:40, 40.0 s/it, loss: 0.4124\n"
    )


@BOTH
def test_a_long_test_says_so_too(bar_class: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(bar_class(), val=(3, 2), seconds=61)
    run.metrics = {}
    run.verb("test", "test")
    assert capsys.readouterr().out.splitlines()[-1] == "Testing DataLoader 1: 2/2 in 0:02:02, 61.0 s/it"


# -- a terminal
@BOTH
def test_a_terminal_shows_progress_in_place_and_keeps_the_epochs_lines(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class())
    run.metrics = {"loss": 0.41239}
    run.fit()
    text = terminal.text
    assert sys.stdout is terminal.stdout
    for part in ("Sanity Checking", "Epoch 1/2", "Validation", "2/4", "2.0 it/s", "0.4124", "12"):
        assert part in text
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    for epoch in (1, 2):
        assert lines.count(f"Epoch {epoch}/2: 4/4 in 0:00:03, 1.3 it/s, loss: 0.4124") == 1


@BOTH
def test_every_verb_draws(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class(leave=True), val=(2, 3))
    for verb, stage in (("validate", "validation"), ("test", "test"), ("predict", "predict")):
        run.verb(verb, stage)
    for name in ("Validation", "Testing", "Predicting"):
        assert f"{name} DataLoader 0" in terminal.text
        assert f"{name} DataLoader 1" in terminal.text
    assert "3/3" in terminal.text
    assert run.bar.is_enabled


@BOTH
def test_a_narrow_terminal_is_not_overrun(bar_class: Any, narrow: Terminal) -> None:
    narrow.turn_on()
    run = FakeRun(bar_class())
    run.metrics = {"a_metric_with_a_long_name": 0.123456, "another_one": 2.0}
    run.fit(validate=False)
    kept = [line for line in re.split(r"[\r\n]+", narrow.text) if line and not re.search(r" in 0:00:|^    ", line)]
    assert kept
    assert max(map(len, kept)) <= 30


@BOTH
def test_drawing_is_throttled_by_time(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class(), seconds=0.04)
    run.fit(epochs=25, validate=False)
    # 100 batches in 4 seconds: at most one draw in 0.1 s, and one for the end of each epoch
    assert 25 < run.reads <= 25 + 41


@BOTH
def test_drawing_is_throttled_by_batches(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class(refresh_rate=3), seconds=10)
    run.fit(epochs=2, validate=False)
    assert run.reads == 4


@BOTH
def test_slow_drawing_draws_less(bar_class: Any, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class(), seconds=0.04)
    show = run.bar.leyden_show

    def slowly(*arguments: Any) -> None:
        run.clock.now += 0.005
        show(*arguments)

    monkeypatch.setattr(run.bar, "leyden_show", slowly)
    run.fit(epochs=1, validate=False, first=-96)
    assert run.reads == 1 + 4  # 100 batches in 4 s, a second of rest after 0.005 s of drawing


@BOTH
def test_a_batch_that_is_not_drawn_costs_one_call(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run: Any = FakeRun(bar_class())
    run.bar.clock = lambda: 0.0
    run.call("setup", "fit")
    run.call("on_train_start")
    run.call("on_train_epoch_start")
    run.bar.leyden_due = 1.0
    import time

    run.bar.clock = time.monotonic
    run.bar.leyden_due = float("inf")
    calls = []
    hook = run.bar.on_train_batch_end
    sys.setprofile(lambda frame, event, argument: calls.append(event) if event == "call" else None)
    hook(run, None, None, None, 1)
    sys.setprofile(None)
    run.bar.leyden_stop()
    assert len(calls) == 1


@BOTH
def test_no_thread_draws(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    import threading

    before = threading.active_count()
    run = FakeRun(bar_class())
    run.call("setup", "fit")
    run.call("on_train_start")
    assert threading.active_count() == before
    run.call("teardown", "fit")


@BOTH
def test_an_exception_gives_the_terminal_back(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class())
    run.call("setup", "fit")
    run.call("on_train_start")
    run.call("on_train_epoch_start")
    run.batches("train", [2])
    run.call("on_exception", KeyboardInterrupt())
    assert sys.stdout is terminal.stdout
    run.call("teardown", "fit")
    if bar_class is RichProgressBar:
        assert terminal.read().rindex("\x1b[?25h") > terminal.read().rindex("\x1b[?25l")  # the cursor is there again


@BOTH
def test_print_stands_above_the_bar(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class())
    run.call("setup", "fit")
    run.bar.print("before", 1)
    run.call("on_train_start")
    run.call("on_train_epoch_start")
    run.batches("train", [2])
    run.bar.print("[red]hello[/red]", 3, sep="-")
    run.batches("train", [2])
    run.call("teardown", "fit")
    assert re.search(r"[\r\n]\[red\]hello\[/red\]-3\r\n", terminal.text)


@BOTH
def test_a_resumed_epoch_begins_where_it_was(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class())
    run.fit(epochs=1, validate=False, first=2)
    assert "2/4" in terminal.text
    assert "3/4" in terminal.text
    assert "1/4" not in terminal.text


@BOTH
@pytest.mark.parametrize("batch", [2, 4])
def test_a_run_that_goes_on_in_a_validation_has_its_batches_behind_it(bar_class: Any, batch: int, terminal: Terminal) -> None:
    terminal.turn_on()
    run = FakeRun(bar_class())
    run.leyden_fitting, run.leyden_fit.progress.batch = True, batch
    run.call("setup", "fit")
    run.call("on_train_start")
    run.evaluate("validation")  # the one that was cut: on_train_epoch_start was told before
    run.batches("train", [4], first=batch)
    run.call("on_train_epoch_end")
    run.call("teardown", "fit")
    assert f"{batch}/4" in terminal.text
    assert "Epoch 1/2: 4/4 in" in terminal.text
    assert not re.search(r"Epoch 1/2\W[^V\n]* 0/4", terminal.text)


# -- switches
@BOTH
def test_other_processes_and_disabled_bars_draw_nothing(bar_class: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(bar_class())
    run.is_global_zero = False
    run.fit()
    assert run.bar.is_disabled
    quiet = FakeRun(bar_class(refresh_rate=0))
    quiet.fit()
    assert not quiet.bar.is_enabled
    off = FakeRun(bar_class())
    off.bar.disable()
    off.fit()
    assert capsys.readouterr().out == ""
    off.bar.enable()
    off.fit()
    assert "Epoch 1/2" in capsys.readouterr().out


@BOTH
@pytest.mark.parametrize(("rate", "error"), [(-1, InvalidOption), (0.5, InvalidType), (True, InvalidType)])
def test_refresh_rate_is_checked(bar_class: Any, rate: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"refresh_rate=.* expected a number of batches >= 1, or 0 to draw nothing"):
        bar_class(refresh_rate=rate)
    assert bar_class(refresh_rate=7).refresh_rate == 7


@BOTH
def test_bars_can_be_pickled_while_they_draw(bar_class: Any, terminal: Terminal) -> None:
    terminal.turn_on()
    bar = bar_class()
    run = FakeRun(bar)
    run.call("setup", "fit")
    run.call("on_train_start")
    bar._trainer = None
    assert pickle.loads(pickle.dumps(bar)).refresh_rate == 1
    bar._trainer = run
    run.call("teardown", "fit")


# -- the base
def test_what_a_bar_of_ones_own_can_ask() -> None:
    bar = ProgressBar()
    with pytest.raises(MisconfigurationException, match=r"ProgressBar\.trainer is there once a verb runs"):
        _ = bar.trainer
    run: Any = FakeRun(bar, val=(2, 3))
    bar.setup(run, None, "fit")  # type: ignore[arg-type]  # no module is needed
    assert bar.is_progress_bar
    assert bar.trainer is run
    assert (bar.total_train_batches, bar.total_val_batches, bar.total_val_batches_current_dataloader) == (4, 5, 2)
    assert (bar.total_test_batches_current_dataloader, bar.total_predict_batches_current_dataloader) == (2, 2)
    assert [bar.has_dataloader_changed(index) for index in (0, 0, 1, 1)] == [True, False, True, False]
    assert bar.total_val_batches_current_dataloader == 3
    bar.reset_dataloader_idx_tracker()
    assert bar.has_dataloader_changed(1)
    assert bar.get_metrics(run, None) == {"v_num": "12", "loss": 0.41239}  # type: ignore[arg-type]  # no module is needed
    run.loggers = []
    assert bar.get_metrics(run, None) == {"loss": 0.41239}  # type: ignore[arg-type]  # no module is needed
    run.num_val_batches = []
    assert bar.total_val_batches_current_dataloader == float("inf")
    assert (bar.is_enabled, bar.is_disabled) == (True, False)


def test_descriptions_and_metrics_can_be_overridden(terminal: Terminal) -> None:
    terminal.turn_on()

    class Mine(TQDMProgressBar):
        @property
        def validation_description(self) -> str:
            return "checking it"

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            metrics = super().get_metrics(trainer, pl_module)
            metrics.pop("v_num", None)
            return {**metrics, "mine": 5}

    FakeRun(Mine()).fit()
    assert "checking it" in terminal.text
    assert "mine=5" in terminal.text
    assert "v_num" not in terminal.text


# -- rich
def test_rich_columns_and_theme_can_be_changed(terminal: Terminal) -> None:
    terminal.turn_on()

    class Mine(RichProgressBar):
        def configure_columns(self, trainer: Any) -> Any:
            from rich.progress import TextColumn

            return [TextColumn("now {task.description}: {task.fields[count]}")]

    run = FakeRun(Mine(theme=RichProgressBarTheme(metrics_format=".1f", metrics_text_delimiter=" ; ")))
    run.call("setup", "fit")
    run.call("on_train_start")
    run.call("on_train_epoch_start")
    run.batches("train", [2])
    assert run.bar.train_progress_bar.completed == 2
    assert (run.bar.val_progress_bar, run.bar.val_sanity_check_bar, run.bar.test_progress_bar) == (None, None, None)
    run.call("teardown", "fit")
    assert "now Epoch 1/2: 2/4" in terminal.text
    assert "v_num: 12 ; loss: 0.4" in terminal.text


def test_rich_writes_where_it_is_told() -> None:
    file = io.StringIO()
    run = FakeRun(RichProgressBar(console_kwargs={"file": file}))
    run.fit(epochs=1, validate=False)
    assert file.getvalue().startswith("Epoch 1/2: 4/4 in 0:00:02, 2.0 it/s, loss: 0.4124\n")


def test_colours_asked_for_in_a_log_file_do_not_make_it_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    FakeRun(RichProgressBar()).fit()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_rich_does_not_open_before_a_verb_runs() -> None:
    bar = RichProgressBar()
    bar.refresh()
    assert bar.progress is None


# -- tqdm
class Recorder:
    """An object that speaks tqdm's protocol and remembers."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self.name, self.log = name, log
        self.n: float = 0
        self.total: float | None = None
        self.initial = 0

    def reset(self, total: float | None = None) -> None:
        self.n = 0
        self.log.append((self.name, "reset", total))

    def set_description(self, text: str, refresh: bool = True) -> None:
        self.log.append((self.name, text))

    def set_postfix(self, values: Any, refresh: bool = True) -> None:
        self.log.append((self.name, values))

    def refresh(self) -> None:
        self.log.append((self.name, self.n, self.total))

    def write(self, text: str) -> None:
        self.log.append(text)

    def close(self) -> None:
        self.log.append((self.name, "closed"))


def test_whatever_the_init_methods_return_is_driven() -> None:
    log: list[Any] = []

    class Mine(TQDMProgressBar):
        def init_train_tqdm(self) -> Any:
            return Recorder("train", log)

        def init_validation_tqdm(self) -> Any:
            return Recorder("val", log)

        def init_sanity_tqdm(self) -> Any:
            return Recorder("sanity", log)

    run = FakeRun(Mine(), train=1, val=(1,))
    run.fit(epochs=1)
    metrics = {"v_num": "12", "loss": 0.41239}
    assert log == [
        *[("sanity", "reset", 1), ("sanity", "Sanity Checking"), ("sanity", 0, 1)] * 2,
        *[("sanity", 1, 1), ("sanity", 1, 1), ("sanity", "closed")],
        *[("train", "reset", 1), ("train", "Epoch 1/2"), ("train", metrics), ("train", 0, 1)] * 2,
        *[("train", metrics), ("train", 1, 1)],
        *[("val", "reset", 1), ("val", "Validation"), ("val", 0, 1), ("val", 1, 1), ("val", 1, 1), ("val", "closed")],
        *[("train", metrics), ("train", 1, 1)] * 2,
        "Epoch 1/2: 1/1 in 0:00:01, 1.0 it/s, loss: 0.4124",
        ("train", "closed"),
    ]


def test_real_tqdm_objects_are_driven() -> None:
    tqdm = pytest.importorskip("tqdm")
    file = io.StringIO()

    class Mine(TQDMProgressBar):
        def init_train_tqdm(self) -> Any:
            return tqdm.tqdm(desc=self.train_description, file=file, bar_format=self.BAR_FORMAT, leave=True, mininterval=0)

        def init_test_tqdm(self) -> Any:
            bar = super().init_test_tqdm()
            assert isinstance(bar, Tqdm)
            return bar

    run = FakeRun(Mine())
    run.fit(epochs=1, validate=False)
    assert "Epoch 1/2: 100%" in file.getvalue()
    assert "4/4" in file.getvalue()
    assert "loss=0.412" in file.getvalue()
    run.verb("test", "test")


def test_bars_are_there_once_their_stage_has_begun() -> None:
    bar = TQDMProgressBar(process_position=1)
    run = FakeRun(bar)
    run.call("setup", "fit")
    with pytest.raises(TypeError, match="The train progress bar of TQDMProgressBar is there once its stage has begun"):
        _ = bar.train_progress_bar
    run.call("on_train_start")
    assert bar.train_progress_bar.pos == bar.process_position == 1
    assert bar.main_progress_bar is bar.train_progress_bar
    run.call("on_validation_start")
    assert isinstance(bar.val_progress_bar, Tqdm)
    run.call("on_validation_end")
    run.call("on_test_start")
    assert isinstance(bar.test_progress_bar, Tqdm)
    run.call("on_predict_start")
    assert isinstance(bar.predict_progress_bar, Tqdm)
    other = Tqdm()
    bar.train_progress_bar = bar.val_progress_bar = bar.test_progress_bar = bar.predict_progress_bar = other
    assert bar.train_progress_bar is bar.val_progress_bar is bar.test_progress_bar is bar.predict_progress_bar is other
    bar.leyden_stop()


@pytest.mark.parametrize(("position", "error"), [(-1, InvalidOption), ("1", InvalidType), (True, InvalidType)])
def test_process_position_is_checked(position: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="a number of lines >= 0"):
        TQDMProgressBar(process_position=position)


def test_our_tqdm_alone(terminal: Terminal) -> None:
    terminal.turn_on()
    clock = Clock(1000.0)
    with Tqdm(desc="x", total=4, ncols=60, smoothing=0, leave=True) as bar:
        bar.clock = clock
        bar.reset()
        clock.now += 2
        bar.update(2)
        bar.set_postfix({"loss": 0.5}, acc=1)
        bar.set_description("longer: ")
        assert str(bar) == "longer:  50% 2/4 [0:00:02<0:00:02, 1.0 it/s, loss=0.5, acc=1]"[:59]
        bar.ncols = 80
        assert str(bar) == "longer:  50%|########        | 2/4 [0:00:02<0:00:02, 1.0 it/s, loss=0.5, acc=1]"
        bar.unpause()
        Tqdm.write("above")
        bar.set_postfix_str("")
        bar.reset(total=8)
        assert (bar.n, bar.total) == (0, 8)
    bar.close()
    bar.refresh()
    assert "above\r\n" in terminal.text
    assert terminal.text.endswith("\n")
    assert bar not in Tqdm.leyden_open


def test_our_tqdm_at_another_position_comes_back_to_its_line(terminal: Terminal) -> None:
    terminal.turn_on()
    bar = Tqdm(position=2, leave=False)
    bar.refresh()
    bar.close()
    assert terminal.read().count("\x1b[2A") == 2
    assert re.search(r"^\r\n\r\n", terminal.read())


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        *((1, "1"), (1234567, "1234567"), (0.5, "0.500"), (0.123456789, "0.123"), ("0.5", "0.500"), ("abc", "abc")),
        *(("1e-5", "1e-5"), ("12345", "12345"), (1e-7, "1e-7"), (123456.7, "1.23e+5"), (3.0, "3.000"), (-0.25, "-0.25")),
    ],
)
def test_numbers_in_a_bar_keep_their_width(given: Any, shown: str) -> None:
    """What Lightning 2.6.6 answers."""
    assert Tqdm.format_num(given) == shown
