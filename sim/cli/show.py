"""``gpuyard show NAME``: one device, engine profile or model, every number with its source."""

from __future__ import annotations

import argparse

from sim.cli.exits import FINE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show."""
    parser.add_argument("name", metavar="NAME", help="a shipped name, or a path to a profile or config.json")
    parser.add_argument("--json", action="store_true", help="print JSON, in base units")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    import json

    from sim.cli import catalog

    if arguments.json:
        print(json.dumps(catalog.describe(arguments.name), indent=2))
    else:
        print(catalog.show(arguments.name))
    return FINE
