"""A batch of sequences in stretches of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from leyden.errors import InvalidReturn


def split_along_time(batch: Any, steps: int) -> list[Any]:
    """``batch``, whose parts have the shape (samples, time, ...), in stretches of ``steps`` time steps.

    A part may be a tensor, or a list with a sequence for each sample; all have to be of one length. Whatever else stands in the
    batch is in every stretch. Raises :class:`InvalidReturn` where there is nothing to split.
    """
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    lengths = {length for part in parts if (length := _time_of(part)) is not None}
    if len(lengths) != 1:
        found = f"of {len(lengths)} different lengths ({sorted(lengths)})" if lengths else "without a dimension for time"
        raise InvalidReturn(
            f"truncated_bptt_steps={steps} splits a batch along its second dimension, and this one has parts {found}. Define "
            f"tbptt_split_batch(self, batch, split_size), which returns the stretches."
        )
    (length,) = lengths
    return [_stretch(batch, parts, slice(start, start + steps)) for start in range(0, length, steps)]


def _time_of(part: Any) -> int | None:
    if isinstance(part, Tensor):
        return part.shape[1] if part.dim() > 1 else None
    if isinstance(part, list | tuple) and part and all(hasattr(each, "__len__") and not isinstance(each, str) for each in part):
        return len(part[0])
    return None


def _stretch(batch: Any, parts: Sequence[Any], time: slice) -> Any:
    cut = [part if _time_of(part) is None else _cut(part, time) for part in parts]
    if isinstance(batch, Mapping):
        return dict(zip(batch, cut, strict=True))
    if isinstance(batch, tuple):
        return type(batch)(*cut) if hasattr(batch, "_fields") else tuple(cut)
    return cut if isinstance(batch, list) else cut[0]


def _cut(part: Any, time: slice) -> Any:
    return part[:, time] if isinstance(part, Tensor) else [each[time] for each in part]
