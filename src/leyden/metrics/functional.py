"""Functions of torchmetrics, where 1.0 to 1.4 had them."""

from typing import Any

from leyden.metrics import torchmetrics


def __getattr__(name: str) -> Any:
    return torchmetrics("torchmetrics.functional", name)
