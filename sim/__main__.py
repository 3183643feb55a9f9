"""``python -m sim`` is ``gpuyard``."""

from __future__ import annotations

import sys

from sim.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
