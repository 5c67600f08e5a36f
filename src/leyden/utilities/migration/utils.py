"""Migration of checkpoints, where Lightning puts it."""

from leyden.checkpoint.migration import migrate_checkpoint, pl_legacy_patch

__all__ = ["migrate_checkpoint", "pl_legacy_patch"]
