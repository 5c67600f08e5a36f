"""Wrappers of a module for several devices, where 0.5 to 0.7 had them."""
