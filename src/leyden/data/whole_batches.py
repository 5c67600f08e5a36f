"""Reads the samples of a batch at once, where the same batch comes out as by reading and stacking them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch.utils.data import Subset, TensorDataset, default_collate
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map
from torch.utils.data._utils.fetch import _IterableDatasetFetcher, _MapDatasetFetcher
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter

from leyden.data.seeded import SeededDataset, Tagged


def by_whole_batches(iterator: Iterator[Any]) -> Iterator[Any]:
    """``iterator``, which a plain DataLoader without workers opened, made to read by the shortest way to the same batches.

    A dataset of tensors is read by whole batches. Of any other the samples are read as always, and stacked without asking for
    each tuple and tensor of what kind it is. What it gives is the same bit for bit, and so is every random state: a dataset of
    tensors draws nothing, and the sampler is asked as before. All others are left as they are: another collate function,
    workers, loaders that iterate in a way of their own.
    """
    if type(iterator) is not _SingleProcessDataLoaderIter:
        return iterator
    fetcher: Any = iterator._dataset_fetcher
    if type(fetcher) in (_MapDatasetFetcher, _IterableDatasetFetcher):
        iterator.__class__ = _Iterator
        if fetcher.auto_collation and fetcher.collate_fn is default_collate and _stacks_as_always():
            tensors, subsets = _tensors_of(fetcher.dataset) if type(fetcher) is _MapDatasetFetcher else (None, [])
            if tensors is None:
                fetcher.collate_fn = _collate
            else:
                iterator._dataset_fetcher = _WholeBatches(fetcher, tensors, subsets)
    return iterator


class _Iterator(_SingleProcessDataLoaderIter):
    """A DataLoader's iterator that writes a profiler's mark for each batch only where a profiler listens: a mark takes 8 us."""

    def __next__(self) -> Any:
        if self._sampler_iter is None or _profiler_enabled() or self._IterableDataset_len_called is not None:
            return super().__next__()
        batch = self._next_data()  # type: ignore[no-untyped-call]  # as in torch
        self._num_yielded += 1
        return batch


def _collate(samples: list[Any]) -> Any:
    """What ``default_collate`` makes of samples, sooner where they are tuples, dicts or tensors."""
    kind = type(samples[0])
    if kind is Tensor:
        return _stack(samples)
    try:
        if kind is tuple and len(set(map(len, samples))) == 1:
            return [_stack(column) for column in zip(*samples, strict=True)]
        if kind is dict:
            return {key: _stack([sample[key] for sample in samples]) for key in samples[0]}
    except (TypeError, LookupError, RuntimeError):
        pass  # it fails in there as well, and says why
    return default_collate(samples)


def _stack(column: Any) -> Any:
    first = column[0]
    if type(first) is Tensor and first.layout is torch.strided and not first.is_nested:
        return torch.stack(column)
    return default_collate(column)


def _tensors_of(dataset: Any) -> tuple[TensorDataset | None, list[Subset[Any]]]:
    """The dataset of tensors in which ``dataset`` looks up its samples, and the subsets in front; ``None`` if it does not."""
    if type(dataset) is SeededDataset:
        dataset = dataset._dataset  # it seeds what is drawn, and nothing will be
    subsets: list[Subset[Any]] = []
    while isinstance(dataset, Subset) and _is_read_as(dataset, Subset):
        subsets.append(dataset)
        dataset = dataset.dataset
    if isinstance(dataset, TensorDataset) and _is_read_as(dataset, TensorDataset):
        return dataset, subsets
    return None, []


def _is_read_as(dataset: Any, kind: type) -> bool:
    """Whether a subclass reads samples as ``kind`` does."""
    own: Any = type(dataset)
    same = (getattr(own, name, None) is getattr(kind, name, None) for name in ("__getitem__", "__getitems__"))
    return all(same) and "__getitems__" not in vars(dataset)


def _stacks_as_always() -> bool:
    """Whether nobody has taught ``default_collate`` another way with tensors, tuples or dicts."""
    kinds = [kind for kind in default_collate_fn_map if isinstance(kind, type)]
    taught = any(issubclass(known, kind) for known in (tuple, dict) for kind in kinds)
    return default_collate_fn_map.get(Tensor) is collate_tensor_fn and not taught


def _is_ordinary(tensor: Any) -> bool:
    """Whether taking rows of a tensor at once gives what stacking them does, in bits and in strides."""
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not (tensor.requires_grad or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )


def _is_row(kind: type, indices: list[Any]) -> bool:
    """Whether all indices of this kind take one row each, as an int does: True and a tensor of one element add a dimension."""
    if kind is Tensor:
        return all(index.dim() == 0 and index.dtype is torch.int64 for index in indices if type(index) is Tensor)
    return issubclass(kind, Integral) and not issubclass(kind, bool)


class _WholeBatches:
    """Stands in for the fetcher of a DataLoader's iterator."""

    def __init__(self, fetcher: Any, dataset: TensorDataset, subsets: list[Subset[Any]]) -> None:
        self.fetcher, self.dataset, self.subsets = fetcher, dataset, subsets
        self.checked: Any = None  # the tensors that were looked at
        self.ordinary = False

    def fetch(self, indices: Any) -> Any:
        tensors = self.dataset.tensors
        if tensors is not self.checked:  # a dataset may be given others on the way
            self.checked, self.ordinary = tensors, bool(tensors) and all(map(_is_ordinary, tensors))
        if self.ordinary and type(indices) in (list, Tagged) and indices:
            try:
                chosen = indices
                for subset in self.subsets:
                    chosen = [subset.indices[index] for index in chosen]
                if all(kind is int or _is_row(kind, chosen) for kind in set(map(type, chosen))):
                    rows = torch.tensor(chosen, device="cpu")
                    if rows.dtype is torch.int64 and rows.dim() == 1:
                        return [tensor.index_select(0, rows) for tensor in tensors]
            except (IndexError, RuntimeError, TypeError, ValueError):
                pass  # an index below 0, or none at all: read one by one, which knows or says
        return self.fetcher.fetch(indices)
