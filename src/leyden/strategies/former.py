"""What 1.2 to 1.9 called strategies: today's, under their names."""

from __future__ import annotations

from typing import Any

from leyden.strategies.base import Strategy
from leyden.strategies.ddp import DDPStrategy
from leyden.strategies.fsdp import FSDPStrategy
from leyden.strategies.parallel import ParallelStrategy
from leyden.strategies.single import SingleDeviceStrategy


class DDPSpawnStrategy:
    """``DDPStrategy(start_method="spawn", ...)``, of which it makes one."""

    def __new__(cls, *args: Any, **kwargs: Any) -> DDPStrategy:  # type: ignore[misc]  # it stands for another
        return DDPStrategy(*args, **{"start_method": "spawn", **kwargs})


OLDER_STRATEGIES: dict[str, Any] = {"DDPFullyShardedNativeStrategy": FSDPStrategy, "DDPSpawnStrategy": DDPSpawnStrategy}
"""By the name under which ``strategies`` had it."""
OLDER_PLUGINS: dict[str, Any] = {
    "DDPPlugin": DDPStrategy,
    "DDPSpawnPlugin": DDPSpawnStrategy,
    "ParallelPlugin": ParallelStrategy,
    "SingleDevicePlugin": SingleDeviceStrategy,
    "TrainingTypePlugin": Strategy,
}
"""By the name under which ``plugins`` had it, up to 1.5."""
