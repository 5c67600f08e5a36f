"""Timer: what it measures, when it ends training, and what a resumed run has left."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import kit
import pytest
from kit import Clock, Tiny, ones

from leyden.callbacks import Timer
from leyden.errors import InvalidOption, InvalidType


class Slow(Tiny):
    """Every training batch takes a second."""

    clock: Clock

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock.now += 1
        return super().training_step(batch, batch_idx)


class Watched(Slow):
    """Every validation batch takes ten seconds, every test batch five."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += 10

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += 5


def slow(clock: Clock, kind: type[Slow] = Slow) -> Slow:
    module = kind()
    module.clock = clock  # set here: the constructor's arguments stand in checkpoints, and a clock cannot
    return module


def trainer_with(timer: Timer, epochs: int = 3) -> Any:
    return kit.trainer(timer, max_epochs=epochs, num_sanity_val_steps=0)


def test_it_measures_training_validation_and_test() -> None:
    clock = Clock()
    timer = Timer(clock=clock)
    trainer = trainer_with(timer)
    trainer.fit(slow(clock, Watched), ones(4), ones(1))
    assert timer.time_elapsed() == timer.time_elapsed("train") == 3 * 4 + 3 * 10
    assert timer.time_elapsed("validate") == 10
    assert timer.time_elapsed("test") == 0
    assert (timer.start_time(), timer.end_time()) == (100.0, 142.0)
    assert timer.start_time("test") is timer.end_time("test") is None
    assert timer.time_remaining() is None
    trainer.test(dataloaders=ones(2), verbose=False)
    assert timer.time_elapsed("test") == 10


@pytest.mark.parametrize(("interval", "steps"), [("step", 6), ("epoch", 8)])
def test_it_ends_training(interval: str, steps: int) -> None:
    clock = Clock()
    timer = Timer(timedelta(seconds=6), interval=interval, clock=clock)
    trainer = trainer_with(timer)
    trainer.fit(slow(clock), ones(4))
    assert trainer.global_step == steps
    assert timer.time_remaining() == 6 - steps
    assert "time limit of 0:00:06" in trainer.leyden_stop_reason


def test_a_resumed_run_has_what_was_left() -> None:
    clock = Clock()
    first = Timer({"seconds": 10}, clock=clock)
    trainer = trainer_with(first, epochs=1)
    trainer.fit(slow(clock), ones(4))
    state = first.state_dict()
    assert state["time_elapsed"]["train"] == 4
    trainer.save_checkpoint("one.ckpt")
    clock.now += 1000
    second = Timer({"seconds": 10}, clock=clock)
    trainer = trainer_with(second, epochs=10)
    trainer.fit(slow(clock), ones(4), ckpt_path="one.ckpt")
    assert trainer.global_step == 10
    assert second.time_elapsed() == 10


def test_a_run_with_no_time_left_trains_no_batch() -> None:
    clock = Clock()
    timer = Timer({"seconds": 4}, clock=clock)
    trainer = trainer_with(timer, epochs=9)
    trainer.fit(slow(clock), ones(9))
    trainer.save_checkpoint("done.ckpt")
    again = trainer_with(Timer({"seconds": 4}, clock=clock), epochs=9)
    again.fit(slow(clock), ones(9), ckpt_path="done.ckpt")
    assert again.global_step == 4


def test_a_second_fit_has_all_the_time_again() -> None:
    clock = Clock()
    timer = Timer({"seconds": 5}, clock=clock)
    trainer = trainer_with(timer)
    trainer.fit(slow(clock), ones(4))
    clock.now += 50
    trainer.fit(slow(clock), ones(4))
    assert trainer.global_step == 5
    assert timer.time_elapsed() == 5


def test_lightnings_state_is_taken() -> None:
    timer = Timer("00:00:01:00")
    timer.load_state_dict({"time_elapsed": {"train": 20.0, "sanity_check": 0, "validate": 1.0, "test": 0, "predict": 0}})
    assert timer.time_elapsed() == 20.0
    assert timer.time_remaining() == 40.0


def test_it_says_that_the_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level("INFO", logger="leyden"):
        trainer_with(Timer({"seconds": 2}, clock=clock)).fit(slow(clock), ones(4))
    assert "The time is over: training took 0:00:02." in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="leyden"):
        trainer_with(Timer({"seconds": 2}, verbose=False, clock=clock)).fit(slow(clock), ones(4))
    assert "The time is over" not in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"duration": "1:2"}, InvalidOption, "duration='1:2'"),
        ({"duration": 5}, InvalidType, "duration=5"),
        ({"interval": "batch"}, InvalidOption, "interval='batch'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Timer(**options)


def test_an_unknown_stage() -> None:
    with pytest.raises(InvalidOption, match="stage='training'"):
        Timer().time_elapsed("training")
