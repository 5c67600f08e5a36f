"""SpikeDetection: which loss is a spike, what is written, and what a resumed run knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from processes_of_threads import ProcessesOfThreads, outcomes_together
from torch import Tensor
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import SpikeDetection
from leyden.callbacks.spike import TrainingSpikeException
from leyden.errors import InvalidOption, InvalidReturn, InvalidType, LeydenWarning
from leyden.strategies import SingleDeviceStrategy
from leyden.testing import Recorder

NAN, INF = float("nan"), float("inf")


class Follows(leyden.LightningModule):
    """Its losses are the batches."""

    def __init__(self, form: Any = lambda loss: loss) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.form = form

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.form(batch.sum() + 0 * self.weight)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(losses: list[float], *callbacks: Any, module: Any = None, ckpt_path: Any = None, **options: Any) -> None:
    loader = DataLoader(torch.tensor(losses))
    kit.trainer(*callbacks, default_root_dir=".", **options).fit(module or Follows(), loader, ckpt_path=ckpt_path)


def spike_in(losses: list[float], **given: Any) -> int | None:
    """The batch in which a spike is found."""
    try:
        train(losses, SpikeDetection(**given))
    except TrainingSpikeException as error:
        return error.batch_idx
    return None


def test_the_error_says_the_batch() -> None:
    error = TrainingSpikeException(3)
    assert str(error) == "Training spike detected in batch 3"
    assert isinstance(error, RuntimeError)


@pytest.mark.parametrize(
    ("losses", "given", "batch"),
    [
        ([1, 1, 1, 3], {}, 3),  # three times the mean is twice it away
        ([1, 1, 1, 2.9], {}, None),
        ([1, 1, 3], {"rtol": 2.5}, None),
        ([1, 10], {"warmup": 2}, None),
        ([9, 1, 1], {"warmup": 0}, None),  # there is no mean yet
        ([1, 2, 3, 4, 5, 6, 7, 30], {"window": 3}, 7),
        ([1, 1, 8, 7, 21], {"window": 2, "rtol": 1.7, "warmup": 3}, 4),
        ([1, 1, 8, 7, 21], {"window": 10, "rtol": 10, "warmup": 3}, None),
        ([1, 1, 1.5], {"rtol": None, "atol": 0.4}, 2),
        ([1, 1, 1.3], {"rtol": None, "atol": 0.4}, None),
        ([1, 1, 1.5, 4], {"rtol": 2.0, "atol": 10.0}, None),  # both have to say so
        ([1, 5, 0.1], {"warmup": 2, "rtol": 0.1}, None),  # better than the last
        ([1, 2, 3, -5], {"mode": "max"}, 3),
        ([5, 5, 5, 1], {"mode": "max", "rtol": 0.5}, 3),
        ([5, 5, 50], {"mode": "max"}, None),
        ([1, 2, NAN], {}, 2),
        ([1, 2, -INF], {}, 2),
        ([1, 1, INF], {"finite_only": False}, 2),
    ],
)
@pytest.mark.filterwarnings("ignore:The loss")
def test_what_is_a_spike(losses: list[float], given: dict[str, Any], batch: int | None) -> None:
    assert spike_in(losses, **given) == batch


@pytest.mark.parametrize(
    ("path", "file"), [(None, "skip_batches.json"), ("a/b", "a/b/skip_batches.json"), (Path("own.json"), "own.json")]
)
def test_the_batches_to_leave_out_are_written(path: Any, file: str, own_folder: Path) -> None:
    callback = SpikeDetection(exclude_batches_path=path)
    with pytest.raises(TrainingSpikeException):
        train([1, 1, 1, 9], callback)
    assert json.loads((own_folder / file).read_text()) == callback.bad_batches == [2, 3]


def test_the_mean_goes_on_over_epochs_and_a_new_fit_begins_anew() -> None:
    callback = SpikeDetection(warmup=3)
    seen: list[Any] = []
    watch = Recorder(on_train_epoch_end=lambda *_: seen.append((callback.last_val, callback.state_dict()["running"])))
    train([1, 2], callback, watch, max_epochs=2)
    assert seen == [(2, [1, 2]), (2, [1, 2, 1, 2])]
    train([5], callback, watch)
    assert seen[-1] == (5, [5])
    with pytest.raises(TrainingSpikeException, match="batch 0"):  # in the second epoch
        train(
            [100.0] * 2,
            SpikeDetection(rtol=0.0),
            Recorder(on_train_epoch_end=lambda run, module: setattr(module, "form", double)),
            max_epochs=2,
        )


def double(loss: Tensor) -> Tensor:
    return 2 * loss


def test_the_state_survives_a_resume_and_the_settings_are_the_command_s(own_folder: Path) -> None:
    losses = [2.0, 2.5, 3.0, 2.0, 2.0, 4.5]
    whole = SpikeDetection(window=3, rtol=0.9)
    with pytest.raises(TrainingSpikeException, match="batch 5"):
        train(losses, whole)

    cut = Recorder(on_train_batch_end=lambda run, m, o, b, index: run.save_checkpoint("cut.ckpt") if index == 2 else None)
    with pytest.raises(TrainingSpikeException, match="batch 5"):
        train(losses, SpikeDetection(window=3, rtol=0.9), cut)
    resumed = SpikeDetection(window=3, rtol=0.9)
    with pytest.raises(TrainingSpikeException, match="batch 5"):
        train(losses, resumed, ckpt_path="cut.ckpt")
    assert resumed.state_dict() | {"bad_batches": []} == whole.state_dict() | {"bad_batches": []}
    assert resumed.bad_batches == [4, 5, 4, 5]  # the file of the first attempt, and the second
    train(losses, SpikeDetection(window=3, rtol=2.0), ckpt_path="cut.ckpt")


def test_a_file_of_lightning_s_state_is_read() -> None:
    callback = SpikeDetection()
    callback.load_state_dict({"last_val": 1.5, "mode": "max", "bad_batches": [3], "running": {}, "mean": {}})
    assert (callback.last_val, callback.mode, callback.bad_batches) == (1.5, "min", [3])


def test_losses_in_a_dict_and_batches_that_are_skipped() -> None:
    with pytest.raises(TrainingSpikeException, match="batch 2"):
        train([1, 1, 9], SpikeDetection(), module=Follows(lambda loss: {"loss": loss, "more": 1}))
    with pytest.raises(TrainingSpikeException, match="batch 3"):
        train([1, 7, 1, 9], SpikeDetection(), module=Follows(lambda loss: None if loss == 7 else loss))


def test_all_processes_end_where_one_finds_a_spike(own_folder: Path) -> None:
    def body(processes: ProcessesOfThreads) -> None:
        losses = [1.0, 1.0, 1.0, 1.0, 9.0 if processes.rank else 1.0, 1.0]
        strategy = SingleDeviceStrategy("cpu", processes=processes)
        train(losses, SpikeDetection(), strategy=strategy, use_distributed_sampler=False)

    outcomes = outcomes_together(2, body)
    assert [str(each) for each in outcomes] == ["Training spike detected in batch 4"] * 2
    assert json.loads((own_folder / "skip_batches.json").read_text()) == [3, 4]


def test_a_file_that_cannot_be_written_hides_no_spike() -> None:
    with pytest.warns(LeydenWarning, match=r"cannot write the batches to leave out \(\[1, 2\]\) to /proc/nowhere/"):
        assert spike_in([1, 1, 9], exclude_batches_path="/proc/nowhere") == 2


def test_a_step_without_a_loss_is_told() -> None:
    module = Follows(lambda loss: None)
    module.automatic_optimization = False
    with pytest.raises(InvalidReturn, match=r"the loss that training_step returns, and Follows's returned nothing\. Return"):
        train([1], SpikeDetection(), module=module)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"mode": "auto"}, InvalidOption, 'mode=\'auto\' cannot be used: expected "min" or "max"'),
        ({"window": 0}, InvalidOption, "window=0"),
        ({"warmup": -1}, InvalidOption, "warmup=-1"),
        ({"atol": "x"}, InvalidType, "atol='x'"),
        ({"rtol": "x"}, InvalidType, "rtol='x'"),
        ({"exclude_batches_path": 3}, InvalidType, "exclude_batches_path=3"),
        ({"finite_only": None}, InvalidType, "finite_only=None"),
        ({"windows": 3}, TypeError, "Did you mean 'window'"),
    ],
)
def test_arguments_that_cannot_be_used(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SpikeDetection(**given)
