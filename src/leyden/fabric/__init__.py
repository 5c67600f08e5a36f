"""What programs with a Trainer import from ``lightning.fabric``: seeds, loggers, plug-ins and tools, from where they are here."""

from __future__ import annotations

from typing import Any

from leyden.devices.seed import seed_everything
from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent

__all__ = ["seed_everything"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden")  # Fabric itself is not offered


stand_in_addresses(__name__)
