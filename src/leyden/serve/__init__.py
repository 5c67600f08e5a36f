"""Modules that answer requests, and a check at the start of training that they do."""

from __future__ import annotations

from typing import Any

from leyden.not_offered import absent
from leyden.serve.servable_module import ServableModule
from leyden.serve.servable_module_validator import ServableModuleValidator

__all__ = ["ServableModule", "ServableModuleValidator"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
