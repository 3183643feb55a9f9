"""``gpuyard explain``: one engine step, operator by operator."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from sim.cli.exits import FINE
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.cost.explain import OperatorLine
    from sim.scenario import Scenario

SIZES = {
    "decode": "decoding sequences in the step",
    "context": "KV entries of each decoding sequence",
    "prefill": "tokens of a prompt chunk in the step",
    "cached": "KV entries before that chunk",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A scenario, or a model and a device; and what the step holds."""
    parser.add_argument("scenario", nargs="?", help="its model, device and engine (variants are left out)")
    parser.add_argument("--model", metavar="M", help="a shipped name, or a config.json")
    parser.add_argument("--hardware", metavar="H", help="a shipped name, or a profile's YAML")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, metavar="N", help="GPUs of a replica")
    for name, meaning in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N", help=meaning)
    parser.add_argument("--json", action="store_true", help="print JSON, in base units")


def run(arguments: argparse.Namespace) -> int:
    """Print the step's operators; by default one decode over 1,024 tokens."""
    from sim.cost.explain import StepShape, explain_step

    for name in SIZES:
        if getattr(arguments, name) < 0:
            raise ScenarioError(
                "below zero", path=f"--{name}", given=getattr(arguments, name), allowed="0 or more"
            )
    sizes = {name: getattr(arguments, name) for name in SIZES}
    if not sizes["decode"] and not sizes["prefill"]:
        sizes |= {"decode": 1, "context": sizes["context"] or 1024}
    lines = explain_step(_scenario(arguments), StepShape(**sizes))
    if arguments.json:
        total = sum(line.time_s for line in lines)
        print(json.dumps({"step": sizes, "time_s": total, "operators": [asdict(x) for x in lines]}, indent=2))
    else:
        print(_as_text(lines, sizes))
    return FINE


def _scenario(arguments: argparse.Namespace) -> Scenario:
    from sim.hardware import load_hardware
    from sim.loading import build, load_scenario
    from sim.model import load_model
    from sim.scenario import EngineConfig, Scenario, Workload

    if arguments.scenario:
        scenario = load_scenario(arguments.scenario).base
        if scenario.kind != "serving":
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
    given = {"tensor_parallel_size": arguments.tensor_parallel_size}
    return Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware(arguments.hardware, path="--hardware"),
        model=load_model(arguments.model, path="--model"),
        workload=Workload(),
        engine=build(EngineConfig, given, file="", path="engine"),
    )


def _as_text(lines: list[OperatorLine], sizes: dict[str, int]) -> str:
    total = sum(line.time_s for line in lines)
    held = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
    head = (
        f"  {'operator':<20}{'launches':>9}{'GFLOP':>12}{'HBM MB':>11}{'link MB':>10}  "
        f"{'bound':<8}{'of peak':>8}{'time us':>11}{'share':>8}  constants"
    )
    rows = [
        f"  {x.name:<20}{x.launches:>9,}{x.flops / 1e9:>12,.2f}{x.hbm_bytes / 1e6:>11,.1f}"
        f"{x.link_bytes / 1e6:>10,.2f}  {x.bound:<8}{x.efficiency:>8.0%}{x.time_s * 1e6:>11,.1f}"
        f"{x.share:>8.1%}  {x.source}"
        for x in lines
    ]
    notes = [
        "",
        f"  step: {total * 1e3:,.3f} ms",
        "  of peak: the bound's time at full peak or bandwidth over the price",
    ]
    return "\n".join([f"one step, one GPU: {held}", "", head, *rows, *notes])
