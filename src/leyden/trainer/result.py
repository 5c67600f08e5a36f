"""What a fit returns: how it ended, what was measured, where its best and last checkpoints lie."""

from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class FitResult:
    """The outcome of :meth:`Trainer.fit`. It equals 1 where training ended by itself, and 0 where it was interrupted: 2020's."""

    status: str
    """``finished``; ``stopped`` (by a callback or ``trainer.stop``); ``interrupted`` (Ctrl-C)."""
    reason: str | None = None
    """Why it stopped, where it did not simply finish."""
    epochs: int = 0
    """Epochs that ended."""
    steps: int = 0
    """Optimizer steps taken."""
    history: list[dict[str, float]] = field(default_factory=list, repr=False)
    """One row an epoch: its number, its last step, and every metric's value."""
    best_checkpoint: str | None = None
    """The best checkpoint's path, where a metric was monitored."""
    best_score: float | None = None
    """The monitored metric's value in it."""
    last_checkpoint: str | None = None
    """The newest checkpoint's path."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return other == (self.status != "interrupted")
        return isinstance(other, FitResult) and vars(self) == vars(other)

    def column(self, name: str) -> list[float]:
        """One metric over the epochs that logged it, such as ``result.column("val_loss")``."""
        return [row[name] for row in self.history if name in row]
