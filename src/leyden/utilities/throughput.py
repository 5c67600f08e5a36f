"""Face of throughput and operation counts."""

from typing import Any

from leyden.devices.flops import get_available_flops, measure_flops
from leyden.devices.throughput import Throughput
from leyden.not_offered import absent

__all__ = ["Throughput", "get_available_flops", "measure_flops"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.utilities")
