"""``gpuyard version``."""

from __future__ import annotations

import argparse

from sim.cli.exits import FINE
from sim.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print the version."""
    print(f"gpuyard {__version__}")
    return FINE
