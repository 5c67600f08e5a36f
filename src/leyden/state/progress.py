"""How far training is: what is finished, counted once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(slots=True)
class Progress:
    """Counts of finished things. Everyone else derives from these."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the running epoch
    step: int = 0  # optimizer steps of training, whatever the number of optimizers
    batches: int = 0  # finished training batches since the fit began
    window: int = 0  # batches whose gradients wait for the next step
    contributed: int = 0  # how many of them had a loss
    stepped_batches: int = 0  # batches that ended with a step: the loggers' x-axis
    rows: int = 0  # `batches` whose row has gone to the loggers, if one was due
    validated: int = 0  # `batches` at the last validation that ended
    validation_rows: int = 0  # rows that the running validation has sent to the loggers
    settled: int = 0  # `batches` after which nothing is left to do: row, validation, schedulers
    closed: bool = False  # the running epoch's last batch is done, with its step and schedulers
    epoch_ended: bool = False  # everything of the running epoch is done but counting it
    late: str = ""  # the hook of which the callbacks that save are being told
    told: int = 0  # how many of them were

    def start_next_epoch(self) -> None:
        """Count the running epoch as finished."""
        self.epoch += 1
        self.batch = 0
        self.rows = self.settled = self.batches
        self.window = 0
        self.closed = False
        self.epoch_ended = False

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        known = {field.name for field in fields(self)}
        for name, value in state.items():
            if name in known:
                setattr(self, name, value)
        if self.epoch_ended and self.closed and not self.late:
            self.start_next_epoch()
