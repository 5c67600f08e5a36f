"""What brings a checkpoint about (so many steps, epochs, or so much time), and when that was so last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, final

from leyden.checked import check_count, read_duration
from leyden.errors import ConflictingOptions, InvalidOption
from leyden.state.run import Run


class Trigger(NamedTuple):
    """One of the three; the others are 0 and ``None``. All are where nothing but the end of training brings one about."""

    steps: int
    epochs: int
    interval: timedelta | None


def refuse_unranked(monitor: str | None, save_top_k: int, chooses: bool) -> None:
    """Raise :class:`ConflictingOptions` where several of the best are to be kept, and nothing says which those are."""
    if monitor is None and save_top_k > 1 and not chooses:
        raise ConflictingOptions(
            f"save_top_k={save_top_k} keeps the best by a metric, and monitor=None names none. Name one, or use save_top_k -1 "
            f"(all), 0 (none) or 1 (the newest)."
        )


def read_trigger(steps: Any, epochs: Any, interval: Any) -> Trigger:
    """What was asked for; each epoch where nothing was.

    Raises:
        InvalidType, InvalidOption: a value that cannot be used.
        ConflictingOptions: more than one.
    """
    steps = None if steps is None else check_count("every_n_train_steps", steps, 0, "a number of steps >= 0, or None")
    epochs = None if epochs is None else check_count("every_n_epochs", epochs, 0, "a number of epochs >= 0, or None")
    duration = read_duration("train_time_interval", interval)
    if duration is not None and duration < timedelta(0):
        raise InvalidOption("train_time_interval", interval, "a time that is not negative")
    given = {"every_n_train_steps": steps, "train_time_interval": duration, "every_n_epochs": epochs}
    triggers = {name: value for name, value in given.items() if value is not None and value != 0}
    if len(triggers) > 1:
        shown = " and ".join(f"{name}={value!r}" for name, value in triggers.items())
        raise ConflictingOptions(
            f"{shown} are mutually exclusive: each says when to save. Give one, or use two ModelCheckpoint callbacks."
        )
    nothing_given = steps is None and epochs is None and duration is None
    return Trigger(steps or 0, 1 if nothing_given else epochs or 0, duration)


@final
@dataclass
class Moments:
    """When a callback saved, so that it saves no moment twice, and knows whether the end of training is saved."""

    planned: int | None = None  # the moment of the newest save that was due
    batches: tuple[int, bool] | None = None  # at the newest save: their count, and whether their epoch was ended
    pending: bool = False  # a save waits for the validation that follows this batch

    def is_saved(self, run: Run) -> bool:
        """Whether what is due at this moment was saved."""
        return self.planned == moment(run)

    def state_dict(self) -> dict[str, Any]:
        at = None if self.batches is None else list(self.batches)
        return {"pending": self.pending, "last_moment_saved": self.planned, "saved_at": at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; nothing of it stands in a file of Lightning's."""
        self.pending = bool(state.get("pending", False))
        self.planned = state.get("last_moment_saved")
        at = state.get("saved_at")
        self.batches = None if at is None else (int(at[0]), bool(at[1]))


def moment(run: Run) -> int:
    """A number that tells one moment of a fit from another."""
    # without an optimizer the steps stay at 0, and the batches tell moments apart
    return run.leyden_fit.progress.step or -run.leyden_fit.progress.batches
