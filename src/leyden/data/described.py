"""A datamodule in words: its loaders, and how many samples each of them reads."""

from collections.abc import Mapping
from typing import Any

from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.combined import CombinedLoader
from leyden.data.reading import is_plain, length_of

_STAGES = {"Train": "train", "Validation": "val", "Test": "test", "Predict": "predict"}


def described(datamodule: Any) -> str:
    """The loaders that ``datamodule`` has as things stand, a line for each stage.

    ``{Train dataloader: size=7}``; of several loaders each with its number or key; ``NA`` where the data has no length, and
    ``None`` where there is no loader, or none before ``setup``. Random state stays as it is.
    """
    lines = []
    for word, stage in _STAGES.items():
        with preserved_random_state():
            try:
                given = getattr(datamodule, f"{stage}_dataloader")()
            except Exception:  # there is none, or setup is to come: whatever the user's method raises then
                given = None
        lines.append(f"{{{word} dataloader: {_said(given)}}}")
    return "\n".join(lines)


def _said(given: Any) -> str:
    if given is None:
        return "None"
    if isinstance(given, CombinedLoader):
        return _said(given.iterables)
    if isinstance(given, Mapping) and not is_plain(given):
        return " ; ".join(f"{key}. {_said(each)}" for key, each in given.items())
    if isinstance(given, list | tuple) and not is_plain(given):
        return " ; ".join(f"{number}. {_said(each)}" for number, each in enumerate(given, 1))
    size = length_of(getattr(given, "dataset", given))
    return f"size={'NA' if size is None else size}"
