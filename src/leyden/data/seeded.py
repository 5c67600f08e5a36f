"""Random augmentation seeded by the batch's position: the same in any worker, in any number of them, and after a resume."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from leyden.checkpoint.random_state import preserved_random_state


class Tagged(list[Any]):
    """The indices of one batch, with the seed that its position gives."""

    def __init__(self, indices: Sequence[Any], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __reduce__(self) -> tuple[Any, ...]:
        return Tagged, (list(self), self.seed)


class TaggedIndex:
    """As :class:`Tagged`, for loaders that do not batch: one index."""

    def __init__(self, index: Any, seed: int) -> None:
        self.index = index
        self.seed = seed


def epoch_seed(random: dict[str, Any], generators: dict[str, Any], epoch: int) -> int:
    """A seed for an epoch, from the state of the generators before its loader was opened. Nothing is drawn."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(random["torch"].numpy().tobytes())
    for path in sorted(generators):
        if isinstance(generators[path], torch.Tensor):
            digest.update(generators[path].numpy().tobytes())
    digest.update(epoch.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little") >> 1


def batch_seed(seed: int, position: int) -> int:
    """The seed of the batch at ``position`` in an epoch."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


class SeededDataset:
    """Stands in front of a map-style dataset: seeds the global generators for each batch before its samples are read.

    In everything else it is the dataset: its attributes, its length, and its class where ``isinstance`` asks.
    """

    def __init__(self, dataset: Any, in_process: bool) -> None:
        self.__dict__["_dataset"] = dataset
        self.__dict__["_in_process"] = in_process

    @property  # type: ignore[misc]  # isinstance() asks for it: worker_init_fn may check for the dataset's class
    def __class__(self) -> type:
        return type(self._dataset)

    def __getattr__(self, name: str) -> Any:
        if name in ("_dataset", "_in_process"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __reduce__(self) -> tuple[Any, ...]:
        return SeededDataset, (self._dataset, self._in_process)

    def __getitems__(self, indices: Any) -> Any:
        if isinstance(indices, Tagged):
            if self._in_process:
                with preserved_random_state():
                    seed_generators(indices.seed)
                    return self._read(list(indices))
            seed_generators(indices.seed)
            return self._read(list(indices))
        return self._read(indices)

    def _read(self, indices: Any) -> Any:
        dataset = self._dataset
        if hasattr(dataset, "__getitems__") and dataset.__getitems__:
            return dataset.__getitems__(indices)
        return [dataset[index] for index in indices]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, TaggedIndex):
            if self._in_process:
                with preserved_random_state():
                    seed_generators(index.seed)
                    return self._dataset[index.index]
            seed_generators(index.seed)
            return self._dataset[index.index]
        return self._dataset[index]
