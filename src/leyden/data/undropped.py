"""What ``predict`` reads: every sample, also those of a last batch that is not full."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import DataLoader

from leyden.data.combined import CombinedLoader
from leyden.data.reading import is_plain, reads_map_style


def undropped(given: Any) -> Any:
    """The loaders ``given``, with ``drop_last=False`` where a sampler decides what is read. They are left as they are.

    A batch sampler of the user's own that has a ``drop_last`` is told so too. What cannot be told is returned as it was given,
    and so is a loader of a stream.
    """
    if isinstance(given, CombinedLoader):
        read, whole = given.flattened, copy.copy(given)
        whole.flattened = [undropped(each) for each in read]
        return given if _same(read, whole.flattened) else whole
    if type(given) in (list, tuple) and not is_plain(given):
        several = [undropped(each) for each in given]
        return given if _same(given, several) else type(given)(several)
    if type(given) is dict:
        named = {key: undropped(each) for key, each in given.items()}
        return given if _same(given.values(), named.values()) else named
    return _undropped(given) if isinstance(given, DataLoader) and reads_map_style(given) else given


def _same(before: Any, after: Any) -> bool:
    return all(one is other for one, other in zip(before, after, strict=True))


def _undropped(loader: DataLoader[Any]) -> DataLoader[Any]:
    batching: Any = loader.batch_sampler
    if not getattr(batching, "drop_last", False):
        return loader
    try:
        whole = copy.copy(batching)
        whole.drop_last = False
    except (AttributeError, TypeError):  # it can be read only
        return loader
    read = copy.copy(loader)
    read.__dict__.update(batch_sampler=whole, drop_last=False, _iterator=None)  # DataLoader lets nobody set them otherwise
    return read
