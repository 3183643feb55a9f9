"""The command line of ``python -m calibrate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sim.errors import ScenarioError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 when it did what it should, 2 when its input is wrong."""
    given = parser().parse_args(arguments)
    try:
        given.run(given)
    except ScenarioError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    top = argparse.ArgumentParser(prog="python -m calibrate", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_import(commands)
    return top


def add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``import``: a price table from somebody's measurements."""
    one = commands.add_parser(
        "import", help="make a price table that a scenario can name (engine.price_table)"
    )
    one.add_argument("format", choices=("aic", "llmservingsim", "vidur", "own"))
    one.add_argument("path", type=Path, help="the folder of the measurements")
    one.add_argument("out", type=Path, help="the folder to write")
    one.add_argument("--tensor-parallel-size", type=int, default=1)
    one.add_argument("--model", default="", help="aic, vidur: a shipped model or a path to its config.json")
    one.add_argument("--gpu", default="", help="aic: the GPU's name in the tables (h100_sxm)")
    one.set_defaults(run=run_import)


def run_import(given: argparse.Namespace) -> None:
    """Reads, writes, reads back, and says what is there."""
    from calibrate.importing.readers import read_measured
    from calibrate.importing.table_writing import write_table

    print(f"reading {given.path} ...")
    table = write_table(read_measured(given), given.out)
    points = "x".join(str(len(axis)) for axis in table.attention.points)
    sizes = sum(len(curve.sizes) for curve in table.per_token.values())
    print(f"{table.model} on {table.device}: {len(table.per_token)} operators, {sizes} times by tokens,")
    print(f"{len(table.per_sequence)} by sequences, an attention grid of {points} points")
    print(f"written to {given.out}; name it in a scenario: engine.price_table: {given.out}")
