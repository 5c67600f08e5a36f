"""The base of callbacks, where 0.6 to 1.9 had it."""

from leyden.callback import Callback

__all__ = ["Callback"]
