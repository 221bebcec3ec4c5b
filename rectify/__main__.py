"""``python -m rectify``."""

from __future__ import annotations

import sys

from rectify.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
