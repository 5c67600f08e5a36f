"""Data in several real processes: shares, exact evaluation, predictions in order, ends that come together."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import kit
import pytest
import torch
from real_processes import together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import BasePredictionWriter


def rows(count: int) -> Tensor:
    return torch.arange(3.0 * count).view(count, 3) / count


def samples(count: int, size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(rows(count)), size, **options)


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += batch[0][:, 0].tolist()
        return self.layer(batch[0]).pow(2).mean()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", batch[0].mean())

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return batch[0][:, 0]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class ByHand(Net):
    """Two optimizers, toggled, each with a backward of its own; and a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(3, 1)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.seen += batch[0][:, 0].tolist()
        for number, optimizer in enumerate(self.optimizers()):
            layer = (self.layer, self.other)[number]
            with optimizer.toggle_model():
                optimizer.zero_grad()
                self.manual_backward((layer(batch[0]) + self.layer(batch[0]).detach()).pow(2).mean())
                self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.layer.parameters(), 0.1), torch.optim.SGD(self.other.parameters(), 0.1)]


class Prepared(Net):
    def prepare_data(self) -> None:
        self.by = os.environ.get("RANK")
        self.data = TensorDataset(rows(8))

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, 2)


class Writer(BasePredictionWriter):
    def __init__(self) -> None:
        super().__init__("batch")
        self.written: list[tuple[list[int], list[float]]] = []

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Sequence[int] | None, *_: Any
    ) -> None:
        self.written.append((list(batch_indices or ()), prediction.tolist()))


def in_one(devices: int, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    run = functools.partial(kit.trainer, devices=devices)

    writer = Writer()
    found["predicted"] = run(writer).predict(Net(), samples(9, 2))
    found["written"] = writer.written
    found["several"] = run().predict(Net(), [samples(3, 2), samples(1, 1)])
    found["with the last"] = run().predict(Net(), samples(9, 2, drop_last=True))
    found["dropped"] = run().predict(Net(), samples(3, 2), return_predictions=False)

    found["tested"] = run().test(Net(), DataLoader(TensorDataset(torch.arange(5.0)), 1), verbose=False)
    found["one sample"] = run().test(Net(), DataLoader(TensorDataset(torch.tensor([7.0])), 1, shuffle=True), verbose=False)

    torch.manual_seed(1)
    by_hand = ByHand()
    trainer = run(max_epochs=2)
    trainer.fit(by_hand, samples(16, size))
    found["by hand"] = kit.weights(by_hand), trainer.global_step

    prepared = Prepared()
    run().fit(prepared)
    found["prepared"] = prepared.by

    torch.manual_seed(1)
    streamed = Net()
    trainer = run(max_epochs=2, use_distributed_sampler=False, accumulate_grad_batches=2)
    rank = int(os.environ.get("RANK", 0))
    trainer.fit(streamed, DataLoader(kit.Stream([(row,) for row in rows(7 - 2 * rank)]), batch_size=1))
    found["streamed"] = kit.weights(streamed), trainer.global_step, len(streamed.seen)
    return found


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return together(2, in_one, 2, 2)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return in_one(1, 4)


def test_predictions_are_those_of_one_process_on_every_process(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    for found in two:
        assert kit.same(one["predicted"], found["predicted"])
        assert kit.same(one["several"], found["several"])
        assert kit.same(one["predicted"], found["with the last"])
        assert found["dropped"] is None


def test_a_writer_gets_the_indices_of_its_own_batches(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    assert two[0]["written"] == one["written"][0::2]
    assert two[1]["written"] == one["written"][1::2]
    assert one["written"][1][0] == [2, 3]


def test_each_sample_is_evaluated_once(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["tested"] == [{"value": 2.0}]
        assert found["one sample"] == [{"value": 7.0}], "also where there are more processes than samples"


def test_manual_optimization_steps_as_one_process_with_larger_batches(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    weights, steps = one["by hand"]
    for found in two:
        assert found["by hand"][1] == steps
        for name, value in weights.items():
            assert torch.allclose(value, found["by hand"][0][name], atol=1e-6)


def test_what_prepare_data_assigned_is_there(two: list[dict[str, Any]]) -> None:
    assert [found["prepared"] for found in two] == ["0", "0"]


def test_streams_of_different_lengths_end_together(two: list[dict[str, Any]]) -> None:
    first, second = (found["streamed"] for found in two)
    assert kit.same(first[0], second[0])
    assert first[1:] == second[1:] == (6, 10)
