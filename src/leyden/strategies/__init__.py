"""Strategies, by their public names."""

from __future__ import annotations

import importlib
from typing import Any

from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent
from leyden.strategies.base import Strategy
from leyden.strategies.choose import StrategyRegistry
from leyden.strategies.ddp import DDPStrategy
from leyden.strategies.fsdp import FSDPStrategy
from leyden.strategies.model_parallel import ModelParallelStrategy
from leyden.strategies.parallel import ParallelStrategy
from leyden.strategies.single import SingleDeviceStrategy

__all__ = [
    "DDPStrategy",
    "FSDPStrategy",
    "ModelParallelStrategy",
    "ParallelStrategy",
    "SingleDeviceStrategy",
    "Strategy",
    "StrategyRegistry",
]


def __getattr__(name: str) -> Any:
    older = importlib.import_module("leyden.strategies.former").OLDER_STRATEGIES
    if name in older:
        return older[name]
    return absent(__name__, name, __all__)


stand_in_addresses(__name__)
