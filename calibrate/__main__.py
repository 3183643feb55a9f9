"""``python -m calibrate``: from measurements to prices."""

from __future__ import annotations

import sys

from sim.cli.exits import exit_code_of


def _main() -> int:
    """A broken import is told like every other fault: it happens inside."""
    from calibrate.commands import main

    return main()


sys.exit(exit_code_of("calibrate", _main))
