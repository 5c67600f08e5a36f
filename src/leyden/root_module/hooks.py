"""A module's hooks, where 0.5 had them: a part of the module itself today."""

from leyden.module import LightningModule as ModelHooks

__all__ = ["ModelHooks"]
