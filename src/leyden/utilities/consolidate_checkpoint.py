"""``python -m leyden.utilities.consolidate_checkpoint FOLDER``: one file of a sharded checkpoint."""

import sys

from leyden.checkpoint.sharded import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
