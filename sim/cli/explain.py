"""``gpuyard explain``: one engine step, operator by operator."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.exits import FINE
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.report.explain import Explained
    from sim.serving.scenario import Scenario

# Options of vLLM that decide a step's price, by the same names: what stands for the value, its type.
ENGINE_OPTIONS: dict[str, tuple[str, type]] = {
    "tensor_parallel_size": ("N", int),
    "pipeline_parallel_size": ("N", int),
    "dtype": ("DTYPE", str),
    "quantization": ("KIND", str),
    "kv_cache_dtype": ("DTYPE", str),
}
SIZES = {
    "decode": "decoding sequences in the step",
    "context": "KV entries of each decoding sequence",
    "prefill": "tokens of a prompt chunk in the step",
    "cached": "KV entries before that chunk",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A scenario, or a model and a device; and what the step holds."""
    parser.add_argument("scenario", nargs="?", help="its model, device and engine (variants are left out)")
    parser.add_argument("--model", metavar="M", help="a Hugging Face or shipped name, or a config.json")
    parser.add_argument("--hardware", metavar="H", help="a shipped name, or a profile's YAML")
    for name, (placeholder, kind) in ENGINE_OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, metavar=placeholder, help=f"vLLM's {name}")
    for name, meaning in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N", help=meaning)
    parser.add_argument("--constants", action="store_true", help="print every constant with its source")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON, in base units")
    shape.add_argument("--csv", action="store_true", help="print the operators as CSV, in base units")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="also write explain.html (the roofline), .json, operators.csv, constants.csv",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the step's operators; by default one decode over 1,024 tokens."""
    from sim.report.explain import as_json, as_text, operator_rows

    found = _explained(arguments)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    elif arguments.csv:
        from sim.export.files import table_csv

        print(table_csv(operator_rows(found)), end="")
    else:
        print(as_text(found, has_constants=arguments.constants))
    if arguments.out:
        _write(found, Path(arguments.out))
    return FINE


def _explained(arguments: argparse.Namespace) -> Explained:
    from sim.price.explain import StepShape, constants_of_step, explain_step, step_warnings
    from sim.report.explain import Explained

    for name in SIZES:
        if getattr(arguments, name) < 0:
            raise ScenarioError(
                "below zero", path=f"--{name}", given=getattr(arguments, name), allowed="0 or more"
            )
    sizes = {name: getattr(arguments, name) for name in SIZES}
    if not sizes["decode"] and not sizes["prefill"]:
        sizes |= {"decode": 1, "context": sizes["context"] or 1024}
    scenario, shape = _scenario(arguments), StepShape(**sizes)
    lines = explain_step(scenario, shape)
    return Explained(
        scenario=scenario,
        sizes=sizes,
        lines=lines,
        constants=constants_of_step(scenario, shape, lines),
        warnings=(*_start_warnings(scenario), *step_warnings(scenario, shape)),
        command=shlex.join(["gpuyard", *sys.argv[1:]]),
    )


def _start_warnings(scenario: Scenario) -> tuple[str, ...]:
    """A price of what does not load is only arithmetic."""
    from sim.price.memory import memory_plan

    if not scenario.engine.has_kv_budget:
        return ()
    try:
        memory_plan(scenario.model, scenario.hardware, scenario.engine)
    except ScenarioError as error:
        if error.path.endswith("max_model_len"):
            return ()  # a shorter one starts, and the step is the same
        why = error.problem.replace("\n ", ":")
        return (f"{scenario.model.name} does not start on {scenario.hardware.name} so: {why}",)
    return ()


def _write(found: Explained, out: Path) -> None:
    from sim.export.files import write_table, write_whole
    from sim.report.explain import as_json, operator_rows, render_explain_page

    if out.exists() and not out.is_dir():
        raise ScenarioError("results need a folder, this is a file", file=str(out))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "explain.html", render_explain_page(found))
    write_whole(out / "explain.json", json.dumps(as_json(found), indent=2) + "\n")
    write_table(operator_rows(found), out / "operators.csv")
    write_table([asdict(one) for one in found.constants], out / "constants.csv")
    print(f"\nwritten: {out / 'explain.html'}, explain.json, operators.csv, constants.csv", file=sys.stderr)


def _scenario(arguments: argparse.Namespace) -> Scenario:
    from sim.hardware import load_hardware
    from sim.kinds.load import load_scenario
    from sim.model.config import load_model
    from sim.scenario.place import Place
    from sim.serving.checks.engine import engine_of
    from sim.serving.checks.scenario import check_model_and_hardware
    from sim.serving.scenario import Scenario, Workload

    given = {name: value for name in ENGINE_OPTIONS if (value := getattr(arguments, name)) is not None}
    if arguments.scenario:
        overrides = [f"engine.{name}={value}" for name, value in given.items()]
        scenario = load_scenario(arguments.scenario, overrides=overrides).base
        if not isinstance(scenario, Scenario):
            raise ScenarioError(
                "explain takes an engine's step apart, and there is no engine",
                file=arguments.scenario,
                path="kind",
                given=scenario.kind,
                allowed="kind: serving",
                hint=f"gpuyard run {arguments.scenario}: its report says what the price is made of",
            )
        if scenario.engine.price_table or scenario.engine.service_time:
            raise ScenarioError(
                "its price is measured or drawn as a whole; explain takes prices apart by counts",
                file=arguments.scenario,
                path="engine",
                hint="leave price_table and service_time out",
            )
        return scenario
    if not arguments.model or not arguments.hardware:
        raise ScenarioError("nothing to explain", hint="give a scenario, or --model and --hardware")
    scenario = Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware(arguments.hardware, path="--hardware"),
        model=load_model(arguments.model, path="--model"),
        workload=Workload(),
        engine=engine_of(given),
    )
    check_model_and_hardware(scenario, Place(file="", path=""))
    return scenario
