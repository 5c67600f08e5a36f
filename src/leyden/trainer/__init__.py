"""The Trainer's room."""

from leyden.trainer.trainer import Trainer

__all__ = ["Trainer"]
