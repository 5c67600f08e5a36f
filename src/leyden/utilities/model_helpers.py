"""Whether a method is overridden, where 1.0 to 1.9 asked, and torchvision's models."""

from leyden.classic.overridden import is_overridden
from leyden.classic.packages import get_torchvision_model

__all__ = ["get_torchvision_model", "is_overridden"]
