"""The base of accelerators, where Lightning puts it."""

from leyden.devices.accelerators import Accelerator

__all__ = ["Accelerator"]
