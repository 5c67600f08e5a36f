"""``python -m leyden.utilities.upgrade_checkpoint PATH``: checkpoints of older Lightnings in today's layout."""

import sys

from leyden.checkpoint.migration import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
