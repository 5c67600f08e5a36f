"""Lightning's checkpoints, old and new: how far they were, and ours as Lightning reads them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.legacy import callback_states_of, is_foreign, lightning_loops, progress_of, version_of
from leyden.state.progress import Progress

REAL = Path(__file__).parent / "data" / "lightning-2.6.6.ckpt"  # made by the program beside it


@pytest.fixture
def real() -> dict[str, Any]:
    return TorchCheckpointIO().load_checkpoint(REAL)


def counts(ready: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": ready, "processed": processed, "completed": completed}


def lightning(
    epochs: dict[str, int],
    current: dict[str, int],
    total: dict[str, int],
    *,
    last: bool,
    steps: int,
    stepped: int | None,
    manual: bool = False,
    optimizers: int = 1,
    validation: dict[str, int] | None = None,
    version: str = "2.6.6",
) -> dict[str, Any]:
    before_two = version < "2"
    automatic_key = "batch_loop.optimizer_loop" if before_two else "automatic_optimization"
    manual_key = "batch_loop.manual_loop" if before_two else "manual_optimization"
    pair = {"ready": steps, "completed": steps}
    none = {"ready": 0, "completed": 0}
    fit = {
        "epoch_progress": {"current": epochs, "total": epochs},
        "epoch_loop.batch_progress": {"current": current, "total": total, "is_last_batch": last},
        "epoch_loop.state_dict": {} if stepped is None else {"_batches_that_stepped": stepped},
        f"epoch_loop.{automatic_key}.optim_progress": {"optimizer": {"step": {"total": none if manual else pair}}},
        f"epoch_loop.{manual_key}.optim_step_progress": {"total": pair if manual else none},
    }
    if validation is not None:
        fit["epoch_loop.val_loop.batch_progress"] = {"current": validation, "total": validation, "is_last_batch": True}
    return {
        "pytorch-lightning_version": version,
        "epoch": epochs["completed"],
        "global_step": steps,
        "loops": {"fit_loop": fit},
        "optimizer_states": [{}] * optimizers,
    }


def test_a_real_file_of_today(real: dict[str, Any]):
    assert is_foreign(real)
    assert not is_foreign({**real, "leyden": {}})
    assert version_of(real) == (2, 6, 6)
    assert progress_of(real) == {
        "epoch": 1,
        "batch": 3,  # Lightning itself says 2 completed: the third has stepped
        "step": 8,
        "batches": 8,
        "window": 0,
        "stepped_batches": 8,
        "validated_batch": 0,
        "epoch_ended": False,
        "closed": False,
        "settled": -1,  # written in `on_train_batch_end`: what follows the batch is still to come
    }
    assert real["hyper_parameters"] == {"lr": 0.1, "width": 2}
    states = callback_states_of(real)
    assert states["EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}"]["patience"] == 7


def test_it_is_what_progress_takes(real: dict[str, Any]):
    progress = Progress()
    progress.load_state_dict(progress_of(real))
    assert (progress.epoch, progress.batch, progress.step, progress.batches) == (1, 3, 8, 8)


@pytest.mark.parametrize("version", ["2.6.6", "1.6.0", "1.9.5"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # in on_train_batch_end of the third batch of the second epoch
        ({"epochs": counts(2, 1, 1), "current": counts(3, 3, 2), "total": counts(8, 8, 7), "last": False}, (1, 3, 8, False)),
        # in on_train_batch_start: that batch is not done
        ({"epochs": counts(2, 1, 1), "current": counts(3, 2, 2), "total": counts(8, 7, 7), "last": False}, (1, 2, 7, False)),
        # in on_train_batch_end of the last batch: validation is still to come
        ({"epochs": counts(1, 0, 0), "current": counts(5, 5, 4), "total": counts(5, 5, 4), "last": True}, (0, 5, 5, False)),
        # in on_validation_end: the usual place of ModelCheckpoint
        ({"epochs": counts(1, 0, 0), "current": counts(5, 5, 5), "total": counts(5, 5, 5), "last": True}, (0, 5, 5, True)),
        # in on_train_epoch_end: the epoch is over
        ({"epochs": counts(2, 2, 1), "current": counts(5, 5, 5), "total": counts(10, 10, 10), "last": True}, (2, 0, 10, False)),
        # in on_train_end
        ({"epochs": counts(2, 2, 2), "current": counts(5, 5, 5), "total": counts(10, 10, 10), "last": True}, (2, 0, 10, False)),
    ],
)
def test_every_moment_at_which_a_file_may_be_written(version: str, arguments: Any, expected: tuple[int, int, int, bool]):
    found = progress_of(lightning(**arguments, steps=8, stepped=8, validation=counts(2, 2, 2), version=version))
    assert (found["epoch"], found["batch"], found["batches"], found["epoch_ended"]) == expected


def test_in_the_middle_of_validation_the_epoch_has_not_ended():
    checkpoint = lightning(
        counts(1, 0, 0), counts(5, 5, 5), counts(5, 5, 5), last=True, steps=5, stepped=5, validation=counts(2, 2, 1)
    )
    assert not progress_of(checkpoint)["epoch_ended"]
    del checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    assert progress_of(checkpoint)["epoch_ended"]


@pytest.mark.parametrize(
    ("steps", "stepped", "optimizers", "manual", "expected"),
    [
        (8, 7, 1, False, 8),  # one optimizer: its steps
        (16, 7, 2, True, 8),  # two, each in each batch; written before the batch was counted
        (16, 8, 2, True, 8),
        (8, 8, 2, True, 8),  # two in turns: a step a batch
        (24, 8, 3, False, 8),
        (16, 8, 3, True, 8),  # two of three
        (16, None, 2, False, 8),  # before 1.6.5 the file did not say
        (15, None, 2, False, 15),
        (13, 8, 2, True, 13),  # as they liked
        (16, 8, 1, True, 16),  # one optimizer, two steps a batch: two steps
    ],
)
def test_steps_of_several_optimizers_are_training_steps(
    steps: int, stepped: int | None, optimizers: int, manual: bool, expected: int
):
    batches = counts(3, 3, 3)
    checkpoint = lightning(
        counts(2, 1, 1), batches, batches, last=False, steps=steps, stepped=stepped, manual=manual, optimizers=optimizers
    )
    assert progress_of(checkpoint)["step"] == expected


def test_a_file_of_one_five_made_after_an_epoch_goes_on_with_the_next():
    checkpoint = lightning(counts(1, 0, 0), counts(5, 5, 5), counts(5, 5, 5), last=True, steps=5, stepped=5)
    checkpoint |= {"pytorch-lightning_version": "1.5.10", "epoch": 1, "global_step": 5}
    found = progress_of(checkpoint)
    assert (found["epoch"], found["batch"], found["step"]) == (1, 0, 5)


def test_a_file_of_zero_seven():
    checkpoint = {
        "epoch": 3,
        "global_step": 30,
        "state_dict": {},
        "checkpoint_callback_best": 0.5,
        "early_stop_callback_wait": 2,
        "early_stop_callback_patience": 3,
    }
    before = copy.deepcopy(checkpoint)
    found = progress_of(checkpoint)
    assert (found["epoch"], found["batch"], found["step"], found["stepped_batches"]) == (3, 0, 30, 30)
    assert version_of(checkpoint) == (0, 7)
    assert callback_states_of(checkpoint) == {
        "ModelCheckpoint": {"best_model_score": 0.5},
        "EarlyStopping": {"wait_count": 2, "patience": 3},
    }
    assert checkpoint == before


def test_callback_keys_of_all_times_are_todays():
    class EarlyStopping:
        pass

    old = "ModelCheckpoint{'monitor': None, 'mode': 'min', 'save_on_train_epoch_end': True}"
    states = callback_states_of({"callbacks": {EarlyStopping: {"a": 1}, old: {"b": 2}, "Timer": {"c": 3}}})
    assert states == {
        EarlyStopping.__qualname__: {"a": 1},
        "ModelCheckpoint{'monitor': None, 'mode': 'min'}": {"b": 2},
        "Timer": {"c": 3},
    }


@pytest.mark.parametrize("optimizers", [1, 2])
@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize(
    "progress",
    [
        Progress(),
        Progress(epoch=1, batch=3, step=8, batches=8, stepped_batches=8),
        Progress(epoch=0, batch=5, step=5, batches=5, stepped_batches=5),
        Progress(epoch=2, step=10, batches=10, stepped_batches=10),
    ],
)
def test_our_loops_read_as_what_they_were(progress: Progress, automatic: bool, optimizers: int):
    loops = lightning_loops(progress.state_dict(), optimizers=optimizers, automatic=automatic, epoch_batches=5)
    checkpoint = {"pytorch-lightning_version": "2.6.6", "loops": loops, "optimizer_states": [{}] * optimizers}
    found = progress_of(checkpoint)
    for name in ("epoch", "batch", "step", "batches", "stepped_batches"):
        assert found[name] == getattr(progress, name), name


def test_an_ended_epoch_is_over_for_lightning():
    progress = Progress(epoch=0, batch=5, step=5, batches=5, stepped_batches=5)
    loops = lightning_loops({**progress.state_dict(), "epoch_ended": True})
    assert loops["fit_loop"]["epoch_progress"]["current"] == counts(1, 1, 0)
    assert loops["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]


def test_our_loops_have_the_shape_of_the_real_ones(real: dict[str, Any]):
    def shape(value: Any) -> Any:
        return {key: shape(item) for key, item in value.items()} if isinstance(value, dict) else type(value)

    assert shape(lightning_loops(Progress().state_dict())) == shape(real["loops"])
