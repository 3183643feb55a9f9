"""From the command line to a verb.

A verb is one module here, with ``add_arguments`` and ``run``, and one line in ``VERBS``. Only the
module of the verb that was typed is imported, and a verb imports what it calls inside ``run``:
``gpuyard --help`` answers without loading NumPy.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from sim.cli.exits import exit_code_of
from sim.errors import ScenarioError, did_you_mean, some_of, told_together
from sim.version import __version__

VERBS = {
    "run": "answer a scenario's question: terminal, report, tables",
    "sweep": "run a grid of what-ifs: for each load the cheapest choice that meets the SLO",
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


class Parser(argparse.ArgumentParser):
    """argparse, whose errors read like every other of the command: what is wrong, allowed, to be tried."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse found as a ScenarioError."""
        verb = self.prog.removeprefix("gpuyard").strip()
        help_of = f"{self.prog} --help"
        where, colon, problem = message.removeprefix("argument ").partition(": ")
        if not message.startswith("argument ") or not colon:
            missing = message.partition("the following arguments are required: ")[2]
            problem = f"{missing} {'are' if ',' in missing else 'is'} missing" if missing else message
            where = verb
        choice = re.fullmatch(r"invalid choice: (.+?) \(choose from (.+)\)", problem)
        if choice is not None:
            given, options = choice[1].strip("'\""), [one.strip(" '\"") for one in choice[2].split(",")]
            what = "verb" if where == "VERB" else "value"
            raise ScenarioError(
                f"no such {what}{did_you_mean(given, options)}",
                path="" if where == "VERB" else where,
                given=given,
                allowed=some_of(given, options, f"`{help_of}` prints all"),
                hint=help_of,
            )
        wrong = re.fullmatch(r"invalid (\w+) value: (.+)", problem)
        if wrong is not None:
            wanted = {"int": "a whole number", "float": "a number"}.get(wrong[1], wrong[1])
            raise ScenarioError(
                f"expected {wanted}", path=where, given=wrong[2].strip("'\""), allowed=wanted, hint=help_of
            )
        raise ScenarioError(problem, path=where, hint=help_of)

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Raises the options that this verb does not have, all of them at once."""
        verb, help_of = self.prog.partition(" ")[2], f"{self.prog} --help"
        options = [name for action in self._actions for name in action.option_strings]
        unknown = [word.partition("=")[0] for word in words if word.startswith("-")] or list(words[:1])
        if not words[0].startswith("-"):
            raise ScenarioError("one word too many", path=verb, given=words[0], hint=help_of)
        raise told_together(
            [
                ScenarioError(
                    f"no such option{did_you_mean(word, options)}",
                    path=f"{verb} {word}",
                    allowed=some_of(word, (one for one in options if one.startswith("--")), f"`{help_of}`"),
                    hint=help_of,
                )
                for word in unknown
            ]
        )


def build_parser(verb: str | None) -> Parser:
    """The parser, with the arguments of ``verb`` only."""
    return _parsers(verb)[0]


def _parsers(verb: str | None) -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the verbs."""
    parser = Parser(
        prog="gpuyard",
        description="A discrete-event simulator of GPU memory and scheduling.",
        epilog="exit codes: 0 fine, 1 a threshold was missed, 2 the input is wrong, 70 a bug of ours, "
        "130 interrupted",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpuyard {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    by_verb: dict[str, Parser] = {}
    for name, summary in VERBS.items():
        by_verb[name] = added = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == verb:
            importlib.import_module(f"sim.cli.{name}").add_arguments(added)
    return parser, by_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if argv is None:
        # Nothing here multiplies matrices of floats, and NumPy's BLAS would start a thread for every core,
        # each of which spins for a while: 0.09 CPU seconds of every command on two cores.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # What is imported and loaded stays, and looking through all of it for garbage again and again was a
        # tenth of a short command: Python's own threshold is 700 objects.
        gc.set_threshold(50_000, 20, 20)
    given = list(sys.argv[1:] if argv is None else argv)
    return exit_code_of("gpuyard", lambda: _dispatch(given))


def _dispatch(given: list[str]) -> int:
    verb = next((word for word in given if not word.startswith("-")), None)
    parser, by_verb = _parsers(verb)
    arguments, unknown = parser.parse_known_args(given)
    if unknown:
        by_verb[arguments.verb].refuse_unknown(unknown)
    code: int = importlib.import_module(f"sim.cli.{arguments.verb}").run(arguments)
    return code
