"""GradientAccumulationScheduler: how many batches make a step, by the epoch."""

from __future__ import annotations

from typing import Any

import kit
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import ones

from leyden.callbacks import GradientAccumulationScheduler
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, MisconfigurationException, Unsupported


class Tiny(kit.Tiny):
    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.steps: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) if self.automatic_optimization else None

    def on_train_epoch_end(self) -> None:
        self.steps.append(self.global_step)


def fit(callback: GradientAccumulationScheduler, module: Tiny | None = None, epochs: int = 4, **options: Any) -> Any:
    module = module or Tiny()
    return kit.fit(module, ones(4), callbacks=[callback], max_epochs=epochs, **options), module


def test_the_schedule_is_followed() -> None:
    trainer, module = fit(GradientAccumulationScheduler({1: 2, 3: 4}))
    assert module.steps == [4, 6, 8, 9]
    assert trainer.accumulate_grad_batches == 4


def test_a_resumed_run_follows_it_too() -> None:
    trainer, _ = fit(GradientAccumulationScheduler({1: 2, 3: 4}), epochs=2)
    trainer.save_checkpoint("two.ckpt")
    _, module = fit(GradientAccumulationScheduler({1: 2, 3: 4}), ckpt_path="two.ckpt")
    assert module.steps == [8, 9]


def test_a_second_fit_follows_it_from_the_start() -> None:
    trainer, module = fit(GradientAccumulationScheduler({1: 2}), epochs=2)
    trainer.fit(module, ones(4))
    assert module.steps == [4, 6, 4, 6]


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 5), min_size=1))
def test_each_epoch_has_the_newest_entry(scheduling: dict[int, int]) -> None:
    callback = GradientAccumulationScheduler(scheduling)
    holds = 1
    for epoch in range(12):
        holds = scheduling.get(epoch, holds)
        assert callback.get_accumulate_grad_batches(epoch) == holds
    assert callback.going_to_accumulate_grad_batches() == any(batches > 1 for batches in scheduling.values())


def test_before_the_first_entry_each_batch_makes_a_step() -> None:
    callback = GradientAccumulationScheduler({2: 3})
    assert callback.scheduling == {0: 1, 2: 3}
    assert callback.epochs == [0, 2]


@pytest.mark.parametrize(
    ("scheduling", "error", "text"),
    [
        ({}, InvalidType, "scheduling={}"),
        (None, InvalidType, "scheduling=None"),
        ([2], InvalidType, r"scheduling=\[2\]"),
        ({-1: 2}, InvalidOption, "epoch"),
        ({0: 0}, InvalidOption, r"scheduling\[0\]=0"),
        ({0: 1.5}, InvalidType, r"scheduling\[0\]=1.5"),
        ({"a": 2}, InvalidType, "'a'"),
    ],
)
def test_bad_schedules(scheduling: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        GradientAccumulationScheduler(scheduling)
    assert isinstance(caught.value, MisconfigurationException)


def test_the_callers_schedule_is_left_alone() -> None:
    given_by_caller = {3: 2}
    GradientAccumulationScheduler(given_by_caller)
    assert given_by_caller == {3: 2}


@pytest.mark.parametrize("fixed", [2, {0: 2}])
def test_a_number_in_the_trainer_excludes_it(fixed: Any) -> None:
    with pytest.raises(ConflictingOptions, match="Leave one of them out"):
        fit(GradientAccumulationScheduler({1: 2}), accumulate_grad_batches=fixed)


def test_manual_optimization_excludes_it() -> None:
    with pytest.raises(Unsupported, match="automatic_optimization=False") as caught:
        fit(GradientAccumulationScheduler({1: 2}), Tiny(manual=True))
    assert isinstance(caught.value, RuntimeError)
