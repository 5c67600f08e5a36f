"""How far training is, counted once."""

from __future__ import annotations

from dataclasses import fields

from leyden.state.progress import Progress


def test_the_next_epoch_starts_from_nothing_but_keeps_the_totals() -> None:
    progress = Progress(epoch=2, batch=5, step=9, batches=15, window=1, stepped_batches=9, closed=True, epoch_ended=True)
    progress.start_next_epoch()
    assert progress == Progress(epoch=3, batch=0, step=9, batches=15, window=0, stepped_batches=9, rows=15, settled=15)


def test_state_comes_back() -> None:
    progress = Progress(epoch=2, batch=5, step=9, batches=15, window=1, stepped_batches=9, rows=14, validated=10, settled=14)
    copy = Progress()
    copy.load_state_dict(progress.state_dict())
    assert copy == progress
    assert set(progress.state_dict()) == {field.name for field in fields(Progress)}


def test_an_epoch_that_had_ended_is_counted_on_load() -> None:
    progress = Progress(epoch=2, batch=5, batches=15, closed=True, epoch_ended=True)
    copy = Progress()
    copy.load_state_dict(progress.state_dict())
    assert (copy.epoch, copy.batch, copy.batches, copy.epoch_ended) == (3, 0, 15, False)


def test_names_of_another_version_are_left_out() -> None:
    progress = Progress()
    progress.load_state_dict({"step": 3, "from_the_future": 1})
    assert progress == Progress(step=3)


def test_an_epoch_that_a_limit_ended_inside_stays_as_it_was() -> None:
    progress = Progress(epoch=2, batch=5, batches=15, epoch_ended=True)
    copy = Progress()
    copy.load_state_dict(progress.state_dict())
    assert copy == progress
