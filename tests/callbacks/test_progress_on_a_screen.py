"""What stands on a terminal while a bar is drawn: the phase that runs, its last state, and what others print.

The terminal is played by ``Screenful``, which knows as much of terminals as bars use: what is looked at is what a person sees.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import kit
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import Clock

from leyden.callbacks import RichProgressBar, TQDMProgressBar
from leyden.callbacks.progress.lines import columns, fold
from leyden.callbacks.progress.screen import Passage, Screen, is_terminal

pytestmark = pytest.mark.filterwarnings("ignore:.* there is no validation loader")
BOTH = pytest.mark.parametrize("bar_class", [RichProgressBar, TQDMProgressBar])
WIDTH = 80


class Screenful:
    """A terminal as a file: keeps the lines that stand on it, after carriage returns, moves upwards and erasures."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0
        self.states: list[str] = []

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.states.append(self.text)

    def fileno(self) -> int:
        raise OSError("no real file")

    def write(self, text: str) -> int:
        for piece in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", text):
            if piece == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif piece == "\r":
                self.column = 0
            elif piece.startswith("\x1b"):
                if piece.endswith("A"):
                    self.row -= int(piece[2:-1] or 1)
                    assert self.row >= 0
                elif piece.endswith("J"):
                    self.lines[self.row] = self.lines[self.row][: self.column]
                    del self.lines[self.row + 1 :]
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + piece + line[self.column + len(piece) :]
                self.column += len(piece)
        return len(text)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Screenful]:
    """Makes the standard output and error one terminal. To be called in the test: pytest sets both after its fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def turn_on() -> Screenful:
        made = Screenful()
        monkeypatch.setattr(sys, "stdout", made)
        monkeypatch.setattr(sys, "stderr", made)
        return made

    return turn_on


class Model(kit.Tiny):
    """Takes ``seconds`` for each batch, by the bar's clock."""

    def __init__(self, clock: Clock, seconds: float = 0.2) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.deed: Callable[[str, int], None] = lambda stage, index: None

    def work(self, stage: str, batch: Any, index: int) -> Any:
        self.deed(stage, index)
        self.clock.now += self.seconds
        return self.layer(batch[0]).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.work("train", batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.work("val", batch, batch_idx), prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.work("test", batch, batch_idx))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.work("predict", batch, batch_idx)


def prepared(bar_class: Any, seconds: float = 0.2, **options: Any) -> tuple[Model, Any]:
    bar = bar_class(**options)
    bar.clock = Clock(1000.0)
    return Model(bar.clock, seconds), kit.trainer(bar, enable_progress_bar=True)


@BOTH
def test_the_phase_that_runs_is_seen_before_its_first_batch_and_at_its_end(bar_class: Any, screen: Any) -> None:
    terminal = screen()
    model, trainer = prepared(bar_class, seconds=60.0)
    seen: dict[tuple[str, int], str] = {}
    model.deed = lambda stage, index: seen.setdefault((stage + "-" * trainer.sanity_checking, index), terminal.text)
    trainer.fit(model, kit.ones(3), kit.ones(2))
    trainer.test(model, kit.ones(2), verbose=False)
    trainer.predict(model, kit.ones(2))
    names = {"train": "Epoch 1/1", "val": "Validation", "val-": "Sanity Checking", "test": "Testing", "predict": "Predicting"}
    assert len(seen) == 3 + 2 + 2 + 2 + 2
    for (stage, index), text in seen.items():
        last = [line for line in text.split("\n") if re.search(r"\d/\d", line)][-1]
        assert last.startswith(names[stage]), (stage, index, text)
        assert f"{index}/{3 if stage == 'train' else 2}" in last, (stage, index, text)
    for name, total in (("Epoch 1/1", 3), ("Validation", 2), ("Testing", 2), ("Predicting", 2)):
        assert any(re.search(rf"^{name}.*{total}/{total}", state, re.MULTILINE) for state in terminal.states), name


@BOTH
@pytest.mark.parametrize(("seconds", "draws"), [(0.2, 40), (0.06, 20), (10.0, 40)])
def test_slow_steps_are_drawn_one_by_one_ten_a_second_at_most(bar_class: Any, screen: Any, seconds: float, draws: int) -> None:
    terminal = screen()
    model, trainer = prepared(bar_class, seconds)
    bar = trainer.progress_bar_callback
    show = bar.leyden_show

    def costs(*arguments: Any) -> None:
        bar.clock.now += 0.008
        show(*arguments)

    bar.leyden_show = costs
    trainer.fit(model, kit.ones(40))
    counts = {found for state in terminal.states for found in re.findall(r"(\d+)/40", state)}
    assert len(counts - {"0"}) >= draws


@BOTH
def test_drawing_stays_under_one_percent_with_many_short_phases(bar_class: Any, screen: Any) -> None:
    screen()
    model, trainer = prepared(bar_class, seconds=0.001)
    bar = trainer.progress_bar_callback
    spent = 0.0
    for name in ("leyden_show", "leyden_redraw"):
        draw = getattr(bar, name)

        def costs(*arguments: Any, draw: Any = draw) -> None:
            nonlocal spent
            bar.clock.now += 0.004
            spent += 0.004
            draw(*arguments)

        setattr(bar, name, costs)
    begun = bar.clock.now
    trainer.fit_loop.max_epochs = 100
    trainer.fit(model, kit.ones(20), kit.ones(4))
    assert spent <= 0.2 + 0.01 * (bar.clock.now - begun) + 0.02  # at once is free until a fifth of a second is used up


@BOTH
def test_what_is_left_is_the_last_state(bar_class: Any, screen: Any) -> None:
    terminal = screen()
    model, trainer = prepared(bar_class, seconds=0.02, leave=True)
    trainer.test(model, kit.ones(20), verbose=False)
    trainer.validate(model, [kit.ones(7), kit.ones(5)], verbose=False)
    trainer.predict(model, kit.ones(17))
    trainer.fit(model, kit.ones(13))
    assert re.search(r"^Testing.*20/20", terminal.text, re.MULTILINE)
    assert re.search(r"^Validation DataLoader 1.*5/5", terminal.text, re.MULTILINE)
    assert re.search(r"^Predicting.*17/17", terminal.text, re.MULTILINE)
    assert re.search(r"^Epoch 1/1\W.*13/13 \W*0:00:00", terminal.text, re.MULTILINE)
    if bar_class is TQDMProgressBar:
        assert terminal.text.count("100%") == 4
    assert terminal.text.endswith("\n")


@BOTH
def test_nothing_is_left_where_that_was_not_asked_for(bar_class: Any, screen: Any) -> None:
    terminal = screen()
    model, trainer = prepared(bar_class)
    trainer.predict(model, kit.ones(3))
    assert terminal.text == ""


@BOTH
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=st.lists(st.sampled_from(["print", "part", "error", "warn", "log", "flush", "lines"]), min_size=1, max_size=6))
def test_what_others_write_stands_on_lines_of_its_own(bar_class: Any, screen: Any, deeds: list[str]) -> None:
    terminal = screen()
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("of a user")
    logger.addHandler(handler)
    model, trainer = prepared(bar_class)
    expected = []

    def write(stage: str, index: int) -> None:
        if stage != "train":
            return
        text = f"<{deeds[index]} {index}>"
        expected.append(text)
        if deeds[index] == "print":
            print("<print", f"{index}>")
        elif deeds[index] == "part":
            print(text, end="")
        elif deeds[index] == "error":
            sys.stderr.write(text + "\n")
        elif deeds[index] == "warn":
            sys.stderr.write(warnings.formatwarning(text, UserWarning, "theirs.py", index))
        elif deeds[index] == "log":
            logger.warning(text)
        elif deeds[index] == "flush":
            print(text, flush=True)
        else:
            sys.stdout.writelines([text + "\n", "and\n"])

    model.deed = write
    trainer.fit(model, kit.ones(len(deeds)), kit.ones(1))
    logger.removeHandler(handler)
    lines = [re.sub(r"^theirs\.py:\d: UserWarning: ", "", line) for line in terminal.text.split("\n")]
    assert [line for line in lines if line.startswith("<")] == expected
    assert [line for line in lines if "<" in line and line not in expected] == []
    assert sys.stdout is sys.stderr is terminal  # type: ignore[comparison-overlap]  # it stands in their place
    assert handler.stream is terminal


@BOTH
def test_a_debugger_has_a_line_for_its_prompt(bar_class: Any, screen: Any) -> None:
    terminal = screen()
    model, trainer = prepared(bar_class)
    prompts = []

    def ask(stage: str, index: int) -> None:
        print("breakpoint")
        sys.stdout.flush()  # as input() does before it shows its prompt
        prompts.append(terminal.lines[terminal.row].rstrip())

    model.deed = ask
    trainer.fit(model, kit.ones(3))
    assert prompts == [""] * 3


def test_a_worker_process_writes_straight_through() -> None:
    written: list[str] = []

    class File:
        write = staticmethod(written.append)

    screen = Screen(lambda: written.append("hidden"), lambda: written.append("drawn"))
    screen.is_open = True
    file = File()
    passage = Passage(file, screen)
    screen.pid = os.getpid() + 1
    assert passage.write("x\n") == 2
    screen.pid = os.getpid()
    screen.is_open = False
    passage.write("y\n")
    assert written == ["x\n", "y\n"]


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_is_no_screen(term: str, screen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = screen()
    assert is_terminal(None)
    monkeypatch.setenv("TERM", term)
    assert not is_terminal(None)
    for bar_class in (RichProgressBar, TQDMProgressBar):
        model, trainer = prepared(bar_class)
        trainer.fit(model, kit.ones(3))
    assert re.fullmatch(r"(Training on [^\n]*\nEpoch 1/1: 3/3 in [^\n]*\nTraining ended [^\n]*\n){2}", terminal.text)


class Notebook:
    """What stands below a notebook's cell: what was printed, and the displays, each as it was shown last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[dict[str, str]] = []
        self.shown: list[dict[str, str]] = []
        self.output = type("OutStream", (Screenful,), {"__module__": "ipykernel.iostream", "isatty": lambda self: False})()
        monkeypatch.setattr(sys, "stdout", self.output)
        shell = type("ZMQInteractiveShell", (), {})()
        monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)  # by it rich knows where it is
        module = types.ModuleType("IPython.display")
        module.display = self.display  # type: ignore[attr-defined]  # what a notebook has
        monkeypatch.setitem(sys.modules, "IPython.display", module)

    def display(self, data: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        place = len(self.shown)
        self.shown.append(data)
        self.states.append(data)

        def update(data: dict[str, str], raw: bool) -> None:
            assert raw
            self.shown[place] = data
            self.states.append(data)

        return types.SimpleNamespace(update=update)


@BOTH
@pytest.mark.parametrize("leave", [True, False])
def test_a_bar_in_a_notebook_is_replaced_and_leaves_little(
    bar_class: Any, leave: bool, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen()
    notebook = Notebook(monkeypatch)
    model, trainer = prepared(bar_class, leave=leave)
    model.deed = lambda stage, index: print("said", index) if stage == "train" else None
    trainer.fit(model, kit.ones(20), kit.ones(2))
    drawn = [state["text/plain"] for state in notebook.states]
    for name, count in (("Sanity Checking", "2/2"), ("Epoch 1/1", "7/20"), ("Validation", "2/2"), ("Epoch 1/1", "20/20")):
        assert any(name in text and count in text for text in drawn), name
    kept = [state["text/plain"] for state in notebook.shown if state["text/plain"]]
    assert len(kept) == leave
    assert all("Epoch 1/1" in text and "20/20" in text and "val_loss" in text for text in kept)
    printed = [line for line in notebook.output.text.split("\n") if "Training" not in line and line[:1] != " "]
    assert printed[:20] == [f"said {index}" for index in range(20)]
    assert printed[20].startswith("Epoch 1/1: 20/20 in 0:00:04, 4.5 it/s, loss: ")
    if bar_class is RichProgressBar:
        assert "<span" in next(state["text/html"] for state in notebook.states if "20/20" in state["text/plain"])
    assert type(sys.stdout) is type(notebook.output)
    trainer.test(model, kit.ones(2), verbose=False)
    assert len(notebook.shown) > 1  # below the cell that runs now


@BOTH
def test_ctrl_c_while_a_notebooks_bar_is_drawn_is_heard(bar_class: Any, screen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen()
    notebook = Notebook(monkeypatch)
    display = notebook.display

    def pressed(data: dict[str, str], **options: Any) -> Any:
        if "/2" in data["text/plain"]:
            raise KeyboardInterrupt
        return display(data, **options)

    monkeypatch.setattr(sys.modules["IPython.display"], "display", pressed)
    model, trainer = prepared(bar_class)
    with pytest.raises(KeyboardInterrupt):
        trainer.validate(model, kit.ones(2), verbose=False)


@BOTH
def test_a_copy_of_a_notebooks_process_writes_text(bar_class: Any, screen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen()
    notebook = Notebook(monkeypatch)
    notebook.output.session = types.SimpleNamespace(pid=os.getpid() - 1)
    model, trainer = prepared(bar_class)
    trainer.fit(model, kit.ones(3))
    assert notebook.states == []
    assert re.search(r"^Epoch 1/1: 3/3 in ", notebook.output.text, re.MULTILINE)
    states = "\n".join(notebook.output.states)
    assert ("Epoch 1/1:  33%" in states) == (bar_class is TQDMProgressBar)


@BOTH
def test_errors_that_go_to_a_file_still_do(bar_class: Any, screen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = screen()
    errors = type("File", (Screenful,), {"isatty": lambda self: False})()
    monkeypatch.setattr(sys, "stderr", errors)
    model, trainer = prepared(bar_class)
    model.deed = lambda stage, index: print("careful", file=sys.stderr)
    trainer.fit(model, kit.ones(2))
    assert errors.text == "careful\ncareful\n"
    assert "careful" not in terminal.text


@BOTH
def test_a_long_line_breaks_between_values(bar_class: Any, screen: Any) -> None:
    terminal = screen()
    names = [f"metric_{index}" for index in range(12)]

    class Talkative(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log_dict(dict.fromkeys(names, torch.tensor(0.5)), prog_bar=True)
            return super().training_step(batch, batch_idx)

    _, trainer = prepared(bar_class)
    trainer.fit(Talkative(trainer.progress_bar_callback.clock), kit.ones(2))
    lines = terminal.text.strip("\n").split("\n")
    assert len(lines) > 1
    assert all(len(line) <= WIDTH for line in lines)
    for name in names:
        assert sum(f"{name}: 0.5" in line for line in lines) == 1


@given(st.lists(st.text("ab漢:. 1", min_size=1, max_size=12), min_size=1, max_size=9), st.integers(8, 60))
def test_folding_loses_nothing_and_fits(parts: list[str], width: int) -> None:
    text = ", ".join(parts)
    folded = fold(text, width)
    assert folded.replace(",\n    ", ", ") == text
    for line in folded.split("\n"):
        assert columns(line) <= width or ", " not in line.strip().rstrip(",")


def test_real_tqdm_objects_draw_on_the_real_files(screen: Any) -> None:
    tqdm = pytest.importorskip("tqdm")
    terminal = screen()

    class Mine(TQDMProgressBar):
        def init_train_tqdm(self) -> Any:
            return tqdm.tqdm(desc="mine", mininterval=0, ncols=60, leave=True)

    model, trainer = prepared(Mine)
    model.deed = lambda stage, index: trainer.print(f"<{index}>")
    trainer.fit(model, kit.ones(2), kit.ones(1))
    assert [line for line in terminal.text.split("\n") if line.startswith("<")][-2:] == ["<1>", "<0>"]
