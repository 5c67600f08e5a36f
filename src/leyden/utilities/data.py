"""What Lightning asks of loaders and batches: not offered."""

from typing import Any

from leyden.not_offered import absent

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
