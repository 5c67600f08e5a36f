"""The Trainer's room."""

from __future__ import annotations

from typing import Any

from leyden.devices.seed import seed_everything
from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent
from leyden.trainer.trainer import Trainer

__all__ = ["Trainer", "seed_everything"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)


stand_in_addresses(__name__)
