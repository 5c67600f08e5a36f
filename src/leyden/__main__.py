"""``python -m leyden``: the same as the command ``leyden``."""

import sys

from leyden.cli.console import main

sys.exit(main())
