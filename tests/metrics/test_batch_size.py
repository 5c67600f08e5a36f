"""A batch's size is what its loader knows, and only then what its tensors show: means over any kind of batch are exact."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SubsetRandomSampler

import leyden
from leyden.errors import AmbiguousBatchSize
from leyden.metrics.batch_size import SampleCount, read_size


class Numbers(Dataset[Tensor]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index)])


class Stream(IterableDataset[Tensor]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor([float(index)]) for index in range(self.count))


class Growing:
    """A batch sampler of the user's own: batches of 1, 2, 3 ... samples."""

    def __init__(self, count: int) -> None:
        self.batches = []
        at = 0
        while at < count:
            size = min(len(self.batches) + 1, count - at)
            self.batches.append(list(range(at, at + size)))
            at += size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


Samples = list[Tensor]
COLLATES: dict[str, Callable[[Samples], Any]] = {
    "time first": lambda samples: {"x": torch.stack(samples).T},
    "padded, time first": lambda samples: {"x": torch.stack(samples).T.expand(int(samples[-1]) % 7 + 1, -1)},
    "a list": list,
    "images": lambda samples: {"images": [sample.expand(3, 5, 5) for sample in samples]},
    "with texts": lambda samples: (torch.stack(samples).T, ["text"] * len(samples)),
    "nested": lambda samples: [{"x": [(torch.stack(samples).T, torch.zeros(5))]}],
    "an object": lambda samples: (sample for sample in samples),
    "nested tensors": lambda samples: (torch.nested.nested_tensor([each.expand(int(each) % 3 + 1) for each in samples]), 0),
    "usual": torch.utils.data.default_collate,
}


class Noting:
    """A collate function that notes the true means of the batches that it makes."""

    def __init__(self, collate: Callable[[Samples], Any]) -> None:
        self.collate = collate
        self.means: deque[Tensor] = deque()

    def __call__(self, samples: Samples) -> Any:
        self.means.append(torch.stack(samples).mean())
        return self.collate(samples)


class Mean(leyden.LightningModule):
    def __init__(self, train: Noting | None, val: Noting) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.train_noting, self.val_noting = train, val

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert self.train_noting is not None
        self.log("train", self.train_noting.means.popleft(), on_step=False, on_epoch=True)
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.val_noting.means.popleft())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
LOADERS: dict[str, Callable[[int, Any], Any]] = {
    "batches of 4": lambda count, collate: DataLoader(Numbers(count), 4, collate_fn=collate),
    "drop_last": lambda count, collate: DataLoader(Numbers(count), 4, collate_fn=collate, drop_last=True),
    "own batches": lambda count, collate: DataLoader(Numbers(count), batch_sampler=Growing(count), collate_fn=collate),  # type: ignore[arg-type]  # PyTorch takes any iterable
    "torch's batches": lambda count, collate: DataLoader(
        Numbers(count), batch_sampler=BatchSampler(SubsetRandomSampler(range(count)), 4, False), collate_fn=collate
    ),
    "a stream": lambda count, collate: DataLoader(Stream(count), 4, collate_fn=collate),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("collate", COLLATES)
@pytest.mark.parametrize("loader", LOADERS)
def test_means_are_exact_whatever_a_batch_looks_like(loader: str, collate: str) -> None:
    count = 12 if loader == "drop_last" else 10
    train, val = Noting(COLLATES[collate]), Noting(COLLATES[collate])
    module = Mean(train, val)
    make = LOADERS[loader]
    trainer = leyden.Trainer(max_epochs=2, logger=False, val_check_interval=2, accelerator="cpu", **QUIET)
    trainer.fit(module, make(count, train), DataLoader(Numbers(8), 3, collate_fn=val))
    assert trainer.callback_metrics == {"train": (count - 1) / 2, "val": 3.5}


@pytest.mark.parametrize("workers", [0, 1])
def test_own_batches_of_a_validation_loader_are_counted_in_workers_too(workers: int) -> None:
    class Plain(leyden.LightningModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", torch.stack(batch).mean())

    loader: Any = DataLoader(
        Numbers(10), batch_sampler=Growing(10), collate_fn=list, num_workers=workers, persistent_workers=workers > 0
    )
    trainer = leyden.Trainer(logger=False, accelerator="cpu", **QUIET)
    for _ in range(2):
        assert trainer.validate(Plain(), loader, verbose=False) == [{"val": 4.5}]


@pytest.mark.parametrize(
    ("batch", "counted", "size"),
    [
        ({"x": torch.zeros(5, 2)}, None, 5),
        ([torch.zeros(5), torch.zeros(4)], SampleCount(7), 7),
        ({"x": torch.zeros(3, 2)}, SampleCount(4, sure=True), 4),  # mixed up on the device
        ({"x": torch.zeros(9, 1)}, SampleCount(1), 1),  # the last one, time first
        ([torch.zeros(3, 5, 5)], SampleCount(1), 1),
        ([torch.zeros(8, 3)], SampleCount(1, lone=True), None),
        ({"x": torch.zeros(8, 3), "y": torch.zeros(8)}, SampleCount(1, lone=True), 8),  # a dataset of whole batches
        ({"x": torch.zeros(8, 1)}, SampleCount(1, lone=True), None),  # one of those, or time first
        ({"x": torch.zeros(3, 2)}, SampleCount(4, most=True), 3),
        ({"x": torch.zeros(3, 4)}, SampleCount(4, most=True), None),  # the last one, or time first
        ({"x": torch.zeros(3, 2)}, SampleCount(4), None),  # the collate function has dropped a sample, or not
        (object(), None, None),
        (["a", "b"], None, 2),
    ],
)
def test_who_is_asked(batch: Any, counted: SampleCount | None, size: int | None) -> None:
    if size is not None:
        assert read_size("a", batch, lambda: counted) == size
        return
    with pytest.raises(AmbiguousBatchSize, match="batch_size="):
        read_size("a", batch, lambda: counted)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_a_size_is_right_or_refused(samples: int, time: int, features: int) -> None:
    """Of a batch of so many samples, time first or not, and a loader that knows how many it gave."""
    for shape in ((time, samples, features), (samples, time, features), (samples,)):
        for count in (SampleCount(samples), SampleCount(samples, sure=True)):
            assert read_size("a", [torch.zeros(shape)], lambda count=count: count) == samples  # type: ignore[misc]  # bound now
