"""Seeds, where 0.7 and 0.8 had them."""

from leyden.devices.seed import seed_everything

__all__ = ["seed_everything"]
