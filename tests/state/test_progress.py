"""How far training is, counted once, and the one cursor over what follows a batch."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.hooks import HOOK_NAMES
from leyden.state.progress import NEXT_HOOK, TRANSFER, Done, Progress
from leyden.state.upgrade import upgraded


def test_there_are_eleven_numbers() -> None:
    assert len(fields(Progress)) == 11


def test_the_next_epoch_starts_from_nothing_but_keeps_the_totals() -> None:
    progress = Progress(epoch=2, batch=5, step=9, batches=15, window=1, stepped_batches=9, closed=True, done=Done.EPOCH_TOLD)
    progress.start_next_epoch()
    assert progress == Progress(epoch=3, step=9, batches=15, stepped_batches=9, done=Done.CHECKED)


@given(st.builds(Progress, *[st.integers(0, 50)] * 6, st.booleans(), *[st.integers(0, 9)] * 2, st.sampled_from(Done)))
def test_state_comes_back(progress: Progress) -> None:
    copy = Progress()
    copy.load_state_dict(progress.state_dict())
    assert copy == progress
    assert set(progress.state_dict()) == {field.name for field in fields(Progress)}
    assert all(type(value) in (int, bool) for value in progress.state_dict().values())


def test_names_of_another_version_are_left_out() -> None:
    progress = Progress()
    progress.load_state_dict({"step": 3, "from_the_future": 1})
    assert progress == Progress(step=3)


def test_a_batch_is_counted_with_its_step() -> None:
    progress = Progress(window=1)
    progress.count_batch(is_last=False)
    assert (progress.batch, progress.batches, progress.stepped_batches, progress.closed) == (1, 1, 0, False)
    progress.window = 0
    progress.count_batch(is_last=True)
    assert (progress.batch, progress.batches, progress.stepped_batches, progress.closed) == (2, 2, 1, True)
    assert progress.done == Done.STEP


def test_an_epoch_that_a_limit_ended_inside_counts_as_over_and_can_go_on() -> None:
    progress = Progress(epoch=2, batch=5, done=Done.ENDED)
    assert (progress.number, progress.between_epochs) == (3, True)
    progress.reopen()
    assert (progress.number, progress.done, progress.between_epochs) == (2, Done.PLATEAUS, False)
    ended = Progress(epoch=3, done=Done.ENDED)
    assert ended.number == 3
    ended.reopen()
    assert ended.done == Done.CHECKED


def test_the_hook_that_was_being_told_is_known_by_the_point() -> None:
    progress = Progress(done=Done.READ, told=2)
    assert progress.cut_hook() == ("on_train_batch_start", 2, None)
    assert progress.cut_hook() is None, "asked once"
    assert Progress(done=Done.PLATEAUS).cut_hook() is None
    assert set(NEXT_HOOK.values()) - {"lr_scheduler_step", TRANSFER} <= set(HOOK_NAMES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"done": Done.CHECKED}),
        ({"batch": 3, "batches": 3, "rows": 3, "settled": 3}, {"batch": 3, "batches": 3, "done": Done.PLATEAUS}),
        ({"batch": 3, "batches": 3, "rows": 2, "settled": 2}, {"batch": 3, "batches": 3, "done": Done.BATCH_TOLD}),
        ({"batch": 3, "batches": 3, "rows": 3, "settled": 2}, {"batch": 3, "batches": 3, "done": Done.TOLD}),
        (
            {"batch": 3, "batches": 3, "rows": 3, "settled": 2, "validated": 3},
            {"batch": 3, "batches": 3, "done": Done.VALIDATION_TOLD},
        ),
        (
            {"batch": 3, "batches": 3, "rows": 3, "settled": 2, "late": "on_train_batch_end", "told": 1},
            {"batch": 3, "batches": 3, "done": Done.ROW, "told": 1},
        ),
        (
            {"batch": 3, "batches": 3, "rows": 3, "settled": 3, "late": "on_validation_end", "told": 1},
            {"batch": 3, "batches": 3, "done": Done.VALIDATED, "told": 1},
        ),
        (
            {
                "batch": 3,
                "batches": 3,
                "rows": 3,
                "settled": 3,
                "closed": True,
                "epoch_ended": True,
                "late": "on_train_epoch_end",
            },
            {"batch": 3, "batches": 3, "closed": True, "done": Done.EPOCH_ROW},
        ),
        (
            {"epoch": 1, "batch": 3, "batches": 6, "rows": 6, "settled": 6, "closed": True, "epoch_ended": True},
            {"epoch": 2, "batches": 6, "done": Done.CHECKED},
        ),
        (
            {"epoch": 1, "batch": 2, "batches": 5, "rows": 5, "settled": 5, "epoch_ended": True},
            {"epoch": 1, "batch": 2, "batches": 5, "done": Done.EPOCH_TOLD},
        ),
    ],
)
def test_the_eight_fields_of_0_1_0_become_the_cursor(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = {"epoch": 0, "batch": 0, "step": 0, "batches": 0, "window": 0, "stepped_batches": 0, "rows": 0, "validated": 0}
    parts = {"progress": {**before, "settled": 0, "closed": False, "epoch_ended": False, "late": "", "told": 0, **old}}
    progress = Progress()
    progress.load_state_dict(upgraded(parts)["progress"])
    assert progress == Progress(**new)


def test_a_number_in_a_file_means_the_same_in_each_version() -> None:
    """Files hold the cursor as a number: a point that is new or goes is another format, which loads what was saved before it."""
    assert [point.value for point in Done] == list(range(43))
    assert " ".join(Done.__members__) == (
        "NOTHING SANITY_TOLD SANITY_RUN CHECKED OPENED FETCHED READ STARTED FORWARD ZERO_TOLD ZEROED BACKWARD_TOLD BACKWARD "
        "ACCUMULATED STEP_TOLD OPTIMIZED STEPPED STEP BATCH_TOLD ROW TOLD VALIDATING EVAL EVAL_STARTED EVAL_OPENED EVAL_FETCHED "
        "EVAL_READ EVAL_BATCH EVAL_STEP EVAL_COUNTED EVAL_CLOSED EVAL_TOLD EVAL_ROW EVAL_ENDED VALIDATED VALIDATION_TOLD "
        "PLATEAUS EPOCH_HOOKS EPOCH_WRITTEN EPOCH_ROW EPOCH_TOLD ENDED FIT_TOLD"
    )
