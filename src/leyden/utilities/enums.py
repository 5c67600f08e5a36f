"""Enumerations, where Lightning puts them."""

from leyden.inspect.gradients import GradClipAlgorithmType
from leyden.state.stage import LightningEnum

__all__ = ["GradClipAlgorithmType", "LightningEnum"]
