"""Functions over nested containers, where 0.9 to 1.9 had them."""

from leyden.devices.transfer import move_data_to_device
from leyden.tree import apply_to_collection

__all__ = ["apply_to_collection", "move_data_to_device"]
