"""Functions of torchmetrics, where 0.9 to 1.4 had them."""

from typing import Any

from leyden.metrics import as_it_was


def __getattr__(name: str) -> Any:
    return as_it_was("former_function", name)
