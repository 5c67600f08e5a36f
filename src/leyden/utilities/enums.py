"""Enumerations, where Lightning puts them."""

from leyden.classic.tools import AMPType, DeviceType, DistributedType, ModelSummaryMode
from leyden.enums import GradClipAlgorithmType, LightningEnum

__all__ = ["AMPType", "DeviceType", "DistributedType", "GradClipAlgorithmType", "LightningEnum", "ModelSummaryMode"]
