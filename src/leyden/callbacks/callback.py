"""The base of callbacks, where Lightning puts it."""

from leyden.callback import Callback

__all__ = ["Callback"]
