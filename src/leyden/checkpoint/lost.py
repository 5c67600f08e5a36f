"""What a hook misses in a checkpoint because it could not be written: named where the hook fails for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from leyden.checkpoint.format import TRUSTED, Unwritable
from leyden.errors import CheckpointMismatch

_OURS = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "leyden")


@contextmanager
def lost_named(owner: object, checkpoint: Mapping[str, Any]) -> Iterator[None]:
    """Around ``owner.on_load_checkpoint(checkpoint)``.

    Raises:
        CheckpointMismatch: it failed, and values of the user's own in the file are there by name and type alone.
    """
    try:
        yield
    except (TypeError, AttributeError) as error:
        values = {key: value for key, value in checkpoint.items() if key not in _OURS}
        lost = ", ".join(f"{path!r} ({value.said})" for path, value in _lost_in(values, ""))
        if not lost:
            raise
        more = TRUSTED if any(value.waits for _, value in _lost_in(values, "")) else ""
        raise CheckpointMismatch(
            f"{type(owner).__name__}.on_load_checkpoint failed: {error}. What cannot be written without pickle is in a "
            f"checkpoint by name and type alone: {lost}. Make it anew in on_load_checkpoint, or save what it is made of{more}."
        ) from error


def _lost_in(values: Any, path: str) -> Iterator[tuple[str, Unwritable]]:
    if isinstance(values, Unwritable):
        yield path, values
    elif isinstance(values, Mapping | list | tuple):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from _lost_in(value, f"{path}.{key}" if path else str(key))
