"""``gpuyard conformance``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder of recorded cases."""
    parser.add_argument("folder", metavar="DIR", help="a folder with index.json and its cases")


def run(arguments: argparse.Namespace) -> int:
    """Replay every case and print the table by kind; 1 where any decision differs."""
    from sim.trust.conformance import main_conformance

    return main_conformance(arguments.folder)
