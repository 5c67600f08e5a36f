"""What a training step returned: its loss, and what the hooks after it are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from leyden.errors import InvalidReturn, did_you_mean
from leyden.state.run import Run


def is_skip(answer: Any) -> bool:
    """Whether ``on_train_batch_start`` answered ``-1``: the rest of the epoch is to be skipped."""
    return isinstance(answer, int) and answer == -1


def read_loss(outputs: Any, run: Run) -> Tensor | None:
    """The loss in what ``training_step`` returned; raises :class:`InvalidReturn` where there is none."""
    if outputs is None or isinstance(outputs, Tensor):
        return outputs
    name = f"{type(run.lightning_module).__name__}.training_step"
    if isinstance(outputs, Mapping):
        if "loss" not in outputs:
            raise InvalidReturn(
                f"{name} returned a dict without the key 'loss' (its keys: {sorted(map(str, outputs))})."
                f"{_nearest_to_loss(outputs)} Return the loss, a dict with 'loss', or None to skip the batch."
            )
        loss = outputs["loss"]
        if loss is not None and not isinstance(loss, Tensor):
            raise InvalidReturn(f"{name} returned {type(loss).__name__} under 'loss'. It must be a tensor to be differentiated.")
        return loss
    raise InvalidReturn(
        f"{name} returned {type(outputs).__name__}. Return the loss as a tensor, a dict with the key 'loss', or None to skip the "
        f"batch."
    )


def differentiate(gave: str, skips: str, loss: Tensor, *args: Any, **kwargs: Any) -> None:
    """``loss.backward()``. Where the loss that ``gave`` names cannot be differentiated, that is an :class:`InvalidReturn`."""
    try:
        loss.backward(*args, **kwargs)
    except RuntimeError as error:
        if loss.numel() != 1 and not (args or kwargs):  # among which may be a gradient to begin with
            raise InvalidReturn(
                f"{gave} a loss of shape {tuple(loss.shape)}, and only a single value can be differentiated. Reduce it, for "
                f"example by .mean()."
            ) from error
        if loss.requires_grad:
            raise
        raise InvalidReturn(
            f"{gave} a loss without a gradient: it was detached, computed under no_grad, or from parameters that are "
            f"frozen. Compute it from parameters with requires_grad=True, or {skips} to skip the batch."
        ) from error


def _nearest_to_loss(outputs: Mapping[str, Any]) -> str:
    near = [key for key in map(str, outputs) if did_you_mean(key, ["loss"])]
    return f" Did you mean 'loss' where it says {near[0]!r}?" if near else ""
