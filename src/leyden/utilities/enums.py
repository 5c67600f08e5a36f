"""Enumerations, where Lightning puts them."""

from leyden.enums import GradClipAlgorithmType, LightningEnum

__all__ = ["GradClipAlgorithmType", "LightningEnum"]
