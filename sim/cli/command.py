"""From the command line to a verb.

A verb is one module here, with ``add_arguments`` and ``run``, and one line in ``VERBS``. Only the
module of the verb that was typed is imported, and a verb imports what it calls inside ``run``:
``gpuyard --help`` answers without loading NumPy.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from sim.cli.exits import exit_code_of
from sim.version import __version__

VERBS = {
    "run": "answer a scenario's question: terminal, report, tables",
    "sweep": "run a grid of what-ifs and mark the points that meet the SLO",
    "conformance": "replay vLLM's recorded scheduling decisions, and compare every one",
    "explain": "one engine step, operator by operator: counts, bound, time, source",
    "memory": "where a device's memory goes, and how many tokens and requests fit",
    "validate": "run a folder of measured cases, and print the errors by case and by group",
    "check": "check scenarios, hardware profiles and model configs",
    "list": "list the shipped hardware, models and scenarios",
    "show": "print one hardware profile or model, with sources",
    "schema": "print the JSON Schema of the scenario format, for editors",
    "version": "print the version",
}


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser, with the arguments of ``verb`` only."""
    parser = argparse.ArgumentParser(
        prog="gpuyard",
        description="A discrete-event simulator of GPU memory and scheduling.",
        epilog="exit codes: 0 fine, 1 a threshold was missed, 2 the input is wrong, 70 a bug of ours, "
        "130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpuyard {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        added = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == verb:
            importlib.import_module(f"sim.cli.{name}").add_arguments(added)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return exit_code_of("gpuyard", lambda: _dispatch(given))


def _dispatch(given: list[str]) -> int:
    verb = next((word for word in given if not word.startswith("-")), None)
    arguments = build_parser(verb).parse_args(given)
    code: int = importlib.import_module(f"sim.cli.{arguments.verb}").run(arguments)
    return code
