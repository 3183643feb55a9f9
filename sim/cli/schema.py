"""``gpuyard schema``: the scenario format as JSON Schema, for editors that complete and check YAML."""

from __future__ import annotations

import argparse

from sim.cli.exits import FINE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("--out", metavar="PATH", default="-", help="file to write; default: standard output")


def run(arguments: argparse.Namespace) -> int:
    """Write the schema."""
    import json

    from sim.cli.results import write_text
    from sim.kinds.schema import scenario_schema

    write_text(arguments.out, json.dumps(scenario_schema(), indent=2) + "\n")
    return FINE
