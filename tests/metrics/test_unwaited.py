"""Numbers that are told without waiting. Here a tensor of float64 stands for one on a GPU, and an event that the test ends."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from kit import Net, trainer
from torch import Tensor
from torch.utils.data import DataLoader

from leyden.callbacks import TQDMProgressBar
from leyden.callbacks.progress.throttled import ThrottledProgressBar
from leyden.metrics.unwaited import Unwaited


class Event:
    def __init__(self) -> None:
        self.over = False

    def query(self) -> bool:
        return self.over


class Slow(Unwaited):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.sent: list[list[float]] = []

    def is_far(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype in (torch.float64, torch.int32)

    def send(self, stacked: Tensor) -> tuple[Tensor, Any]:
        self.events.append(Event())
        self.sent.append(stacked.tolist())
        return stacked.clone(), self.events[-1]


def far(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def test_the_first_is_waited_for_and_then_what_has_come_is_told() -> None:
    slow = Slow()
    assert slow.read({"loss": far(1.0)}) == {"loss": 1.0}
    assert slow.read({"loss": far(2.0)}) == {"loss": 1.0}  # nothing has come, and nothing more is sent for
    assert slow.sent == [[1.0]]
    slow.events[0].over = True
    assert slow.read({"loss": far(3.0)}) == {"loss": 1.0}
    slow.events[1].over = True
    assert slow.read({"loss": far(4.0)}) == {"loss": 3.0}
    assert slow.sent == [[1.0], [3.0], [4.0]]


def test_what_is_at_hand_is_as_it_is_now() -> None:
    slow = Slow()
    for number in range(3):
        given = {"loss": far(number), "near": torch.tensor(float(number)), "plain": number, "text": f"{number}"}
        assert slow.read(given) == {"loss": 0.0, "near": float(number), "plain": number, "text": f"{number}"}
        assert list(slow.read(given)) == list(given)


def test_names_that_come_later_and_types_of_their_own() -> None:
    slow = Slow()
    assert slow.read({"a": far(1.0), "n": torch.tensor(3, dtype=torch.int32)}) == {"a": 1.0, "n": 3}
    assert slow.sent == [[1.0], [3]]
    assert slow.read({"a": far(2.0), "b": far(5.0)}) == {"a": 1.0, "b": 5.0}
    for event in slow.events:
        event.over = True
    assert slow.read({"a": far(9.0), "b": far(9.0)}) == {"a": 2.0, "b": 5.0}


class Live(ThrottledProgressBar):
    """Draws each batch, and keeps what it was given to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[dict[str, Any]] = []
        time = iter(range(100_000))
        self.clock = lambda: next(time) * 0.06

    def leyden_open(self, trainer: Any) -> bool:
        return True

    def leyden_show(self, *given: Any) -> None:
        self.drawn.append(given[-1])

    def leyden_begin(self, *given: Any) -> None: ...
    def leyden_end(self, stage: str) -> None: ...
    def leyden_hide(self) -> None: ...
    def leyden_redraw(self) -> None: ...
    def leyden_close(self) -> None: ...
    def leyden_write(self, text: str) -> None:
        self.drawn.append({"line": text})


class Far(Net):
    validation_step = None  # type: ignore[assignment]  # of no concern here

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("far", far(batch_idx), prog_bar=True, on_step=True, on_epoch=True)
        return loss


def test_a_bar_shows_what_had_come_and_a_phases_end_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.callbacks.progress.throttled.Unwaited", Slow)
    bar = Live()
    trainer(bar, enable_progress_bar=True).fit(Far(), DataLoader(torch.rand(12, 4), batch_size=2))
    shown = [metrics["far_step"] for metrics in bar.drawn if "far_step" in metrics]
    assert shown[:2] == [0.0] * 2  # nothing had come
    assert shown[-1] == 5.0
    assert "far_epoch: 2.5" in bar.drawn[-1]["line"]


def test_a_bar_is_copied_and_pickled_without_what_is_on_its_way() -> None:
    bar = TQDMProgressBar()
    bar.leyden_unwaited._sent["a",] = (torch.zeros(1), lambda: None)
    for copied in (copy.deepcopy(bar), pickle.loads(pickle.dumps(bar))):
        assert copied.leyden_unwaited._sent == {}
