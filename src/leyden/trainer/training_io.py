"""What the Trainer of 0.5 to 0.9 was put together from: not offered."""

from leyden.not_offered import answers

__getattr__ = answers(__name__, "leyden.trainer")
