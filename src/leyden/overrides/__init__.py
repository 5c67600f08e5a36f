"""Wrappers of a module for several devices, where 0.5 to 0.7 had them."""

from leyden.former_addresses import stand_in_addresses

stand_in_addresses(__name__)
