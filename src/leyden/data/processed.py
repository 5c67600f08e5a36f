"""Let somebody put another loader in the place of each that a stage reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._pytree import tree_map

from leyden.data.combined import CombinedLoader
from leyden.data.reading import is_plain


def processed(given: Any, process: Callable[[Any], Any] | None) -> Any:
    """``given``, a loader or several in any structure, with what ``process`` makes of each; as it is without ``process``."""
    if given is None or process is None:
        return given
    if isinstance(given, CombinedLoader):
        return CombinedLoader(processed(given.iterables, process), given.mode)  # type: ignore[arg-type]  # a mode it had checked
    return tree_map(process, given, is_leaf=is_plain)
