"""FSDP's precision, where Lightning has it."""

from leyden.devices.fsdp_precision import FSDPPrecision

__all__ = ["FSDPPrecision"]
