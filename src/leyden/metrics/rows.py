"""Whether the rows of training hold values of all processes: such a row is an exchange, and so all have to have them, or none."""

from __future__ import annotations

from collections.abc import Sequence

from leyden.distributed.processes import Processes
from leyden.distributed.unforeseen import Unforeseen
from leyden.errors import MetricsDiffer


class Rows:
    """The rows of one training.

    The first asks the other processes. A later one costs nothing as long as it has names with ``sync_dist=True`` where the one
    before had, and none where it had none; else it waits until the others have come to such a row too.

    Args:
        processes: whose values become one.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._unforeseen: Unforeseen | None = None
        self._had: bool | None = None

    def differ(self, names: Sequence[str]) -> bool:
        """Whether names have to be compared, though there may be none: ``names`` are those of this process.

        Raises :class:`MetricsDiffer` where the others do not come to such a row.
        """
        had, self._had = self._had, bool(names)
        if had is None:
            self._unforeseen = None if self._processes.store is None else Unforeseen(self._processes)
            return True
        if had != self._had and self._unforeseen is not None:
            listed = ", ".join(map(repr, names))
            self._unforeseen.meet(
                f"rows {'with' if names else 'without'} values of all",
                f"A row of training has {listed or 'no name any more'} with sync_dist=True, unlike the row before,",
                "Log it in the same batches on every process, or with rank_zero_only=True.",
                "come to such a row",
                MetricsDiffer,
            )
        return False
