"""What a module keeps of a validation's forward can be trained with."""

from __future__ import annotations

import functools
from collections import defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import leyden
from leyden.data.reachable import make_normal
from leyden.testing import BoringModel

Pair = namedtuple("Pair", "first second")


class Keeps(nn.Module):
    kept: Any = None


class Table(dict[str, Any]):
    """A dict of the user's own."""


def stored(module: Keeps, value: Any) -> None:
    module.kept = value


PLACES = {
    "an attribute": stored,
    "a buffer": lambda module, value: module.register_buffer("table", value),
    "a list": lambda module, value: stored(module, [1, value]),
    "a dict": lambda module, value: stored(module, {"a": {2: value}}),
    "a deque": lambda module, value: stored(module, deque([value])),
    "a default dict": lambda module, value: stored(module, defaultdict(list, {1: [value]})),
    "a dict of its own class": lambda module, value: stored(module, Table(a=value)),
    "a parameter": lambda module, value: setattr(module, "weight", nn.Parameter(value)),
    "a tuple": lambda module, value: stored(module, (value, (value,))),
    "a named tuple in a list": lambda module, value: stored(module, [Pair(value, 1)]),
    "a layer's": lambda module, value: stored(module[0], value),
}


def tensors(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    if isinstance(held, nn.Module):
        return [t for m in held.modules() for t in [*m.buffers(False), *m.parameters(False), *tensors(getattr(m, "kept", None))]]
    inside = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple | deque) else ()
    return [tensor for item in inside for tensor in tensors(item)]


@pytest.mark.parametrize("place", PLACES)
def test_an_inference_tensor_becomes_a_normal_one(place: str) -> None:
    class Module(nn.Sequential, Keeps):
        pass

    module = Module(Keeps())
    with torch.inference_mode():
        PLACES[place](module, torch.arange(3.0))
    assert any(tensor.is_inference() for tensor in tensors(module))
    make_normal(module)
    assert tensors(module)
    for tensor in tensors(module):
        assert not tensor.is_inference()
        assert tensor.tolist() == [0, 1, 2]


class Labelled(Tensor):
    """A tensor of the user's own that copies itself by what a slice of it does not have."""

    labels: list[str]

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        return labelled(super().clone(*args, **kwargs), list(self.labels))


def labelled(plain: Tensor, labels: list[str]) -> Labelled:
    made = plain.as_subclass(Labelled)
    made.labels = labels
    return made


def test_a_tensor_of_the_users_own_class_keeps_it_and_what_it_holds() -> None:
    module = Keeps()
    with torch.inference_mode():
        whole = labelled(torch.arange(3.0), ["a"])
        stored(module, [whole, whole[:2]])  # a slice has no labels
    make_normal(module)
    new, part = module.kept
    assert (type(new), new.labels, new.tolist()) == (Labelled, ["a"], [0, 1, 2])
    assert (type(part), hasattr(part, "labels"), part.tolist()) == (Labelled, False, [0, 1])
    assert not new.is_inference()
    assert not part.is_inference()


SEEN: Any = None


@functools.lru_cache(maxsize=8)
def bounded(size: int) -> Tensor:
    return torch.arange(float(size))


@functools.cache
def unbounded(size: int) -> dict[str, list[Tensor]]:
    return {"a": [torch.arange(float(size))]}


def of_the_file(size: int) -> Tensor:
    global SEEN
    SEEN = torch.arange(float(size)) if SEEN is None else SEEN
    return SEEN


def enclosed() -> Any:
    kept: Any = None

    def table(size: int) -> Tensor:
        nonlocal kept
        kept = torch.arange(float(size)) if kept is None else kept
        return kept

    return table


class Slotted:
    __slots__ = ("kept",)

    def __call__(self, size: int) -> Tensor:
        self.kept = getattr(self, "kept", torch.arange(float(size)))
        return self.kept


class OfTheClass:
    kept: Any = None

    def __call__(self, size: int) -> Tensor:
        if self.kept is None:
            type(self).kept = torch.arange(float(size))
        return self.kept


class OwnCache:
    @functools.lru_cache  # noqa: B019  # as users write it
    def __call__(self, size: int) -> Tensor:
        return torch.arange(float(size))


FUNCTIONS: dict[str, Any] = {
    "under lru_cache": lambda: bounded,
    "under cache, nested": lambda: lambda size: unbounded(size)["a"][0],
    "a lambda under lru_cache": lambda: functools.lru_cache(lambda size: torch.arange(float(size))),
    "a method under lru_cache": OwnCache,
    "a name of the file": lambda: of_the_file,
    "a closure": enclosed,
    "slots": Slotted,
    "a class": OfTheClass,
}


@pytest.mark.parametrize("where", FUNCTIONS)
def test_a_table_that_a_function_keeps(where: str) -> None:
    class Calls(nn.Module):
        def __init__(self, table: Any) -> None:
            super().__init__()
            self.table = table

    module = Calls(FUNCTIONS[where]())
    with torch.inference_mode():
        module.table(3)
    with torch.inference_mode():
        assert module.table(3).is_inference()
    make_normal(module)
    assert not module.table(3).is_inference()
    assert module.table(3).tolist() == [0, 1, 2]


def test_a_cache_of_normal_tensors_is_not_emptied() -> None:
    calls: list[int] = []

    @functools.lru_cache
    def table(size: int) -> Tensor:
        calls.append(size)
        return torch.zeros(size)

    module = Keeps()
    module.kept = [table]
    table(3)
    make_normal(module)
    table(3)
    assert calls == [3]


class Proxy:
    """Has no dict of attributes, and gives a function for every name: what wraps a library written in C is often so."""

    __slots__ = ("inner",)

    def __init__(self) -> None:
        self.inner = torch.zeros(1)

    def __getattr__(self, name: str) -> Any:
        if name == "__deepcopy__":
            raise AttributeError(name)
        return lambda *args: None


def test_an_object_that_answers_to_every_name_costs_no_run(tmp_path: Path):
    class Order(RandomSampler):
        def __init__(self, data: Any) -> None:
            super().__init__(data)
            self.proxy = Proxy()

    class Net(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.proxy = Proxy()

        def train_dataloader(self) -> DataLoader[Any]:
            data = TensorDataset(torch.randn(6, 32))
            data.proxy = self.proxy  # type: ignore[attr-defined]
            return DataLoader(data, 2, sampler=Order(data), collate_fn=lambda rows: torch.stack([row[0] for row in rows]))

        def on_train_epoch_start(self) -> None:
            self.trainer.train_dataloader.dataset.inner = 3

    class Held(leyden.Callback):
        def __init__(self) -> None:
            self.proxy, self.seen = Proxy(), 0

        def on_train_batch_end(self, *args: Any) -> None:
            self.seen += 1

    def run(**more: Any) -> Any:
        trainer = leyden.Trainer(max_epochs=2, callbacks=[Held()], default_root_dir=tmp_path, enable_progress_bar=False, **more)
        trainer.fit(Net(), ckpt_path="last")
        return trainer

    assert run(limit_val_batches=2, max_steps=4, logger=False).global_step == 4
    assert run(limit_val_batches=2, logger=False).global_step == 6
