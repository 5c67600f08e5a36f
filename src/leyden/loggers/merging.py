"""Several dicts of values as one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def merge_dicts(
    dicts: Sequence[Mapping[str, Any]],
    agg_key_funcs: Mapping[str, Any] | None = None,
    default_func: Callable[[Sequence[float]], float] = statistics.mean,
) -> dict[str, Any]:
    """One dict that holds under each name what became of all the values that ``dicts`` have there.

    Args:
        dicts: The dicts, whose values may be dicts in turn. One that lacks a name, or has ``None`` there, does not count for it.
        agg_key_funcs: By name the function from a list of values to one. For a dict in the dicts, a dict of such functions.
        default_func: What is called where ``agg_key_funcs`` says nothing. By default the mean.

    Example::

        merge_dicts([{"loss": 1.0, "n": 2}, {"loss": 2.0, "n": 3}], {"n": sum})   # {"loss": 1.5, "n": 5}
    """
    functions = agg_key_funcs or {}
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in dicts for name in each):
        values = [each[name] for each in dicts if each.get(name) is not None]
        function = functions.get(name)
        if not values:
            merged[name] = None
        elif isinstance(values[0], Mapping):
            merged[name] = merge_dicts(values, function, default_func)
        else:
            merged[name] = (function or default_func)(values)
    return merged
