"""``gpuyard list``: what is shipped, and which layouts of traces are read."""

from __future__ import annotations

import argparse

from sim.cli.exits import FINE

KINDS = ("hardware", "engines", "models", "scenarios", "traces")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to list."""
    parser.add_argument("kind", nargs="?", choices=KINDS, help="one of these; default: all")


def run(arguments: argparse.Namespace) -> int:
    """Print a table per kind."""
    from sim.cli import catalog

    tables = {
        "hardware": catalog.hardware_table,
        "engines": catalog.engine_table,
        "models": catalog.model_table,
        "scenarios": catalog.scenario_table,
        "traces": catalog.trace_format_table,
    }
    kinds = [arguments.kind] if arguments.kind else KINDS
    print("\n\n".join(f"{kind}\n{tables[kind]()}" for kind in kinds))
    return FINE
