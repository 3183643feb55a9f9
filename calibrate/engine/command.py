"""``python -m calibrate engine serve | parity``: a real engine on the GPU, and the same runs simulated."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from calibrate.engine.runs import engine_runs, expected_s, read_run
from calibrate.measure.command import CHECKOUT, DATA, NO_GPU, SLOT_SECONDS
from sim.errors import ScenarioError

DEVELOPMENT = "chat-medium"
RESERVE_SECONDS = 20.0  # a run's rows are written before a slot ends
SERVE = "python -m calibrate engine serve"
DRY_FOLDER = Path("out/engine_dry_run")


def add_engine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``engine``: serve and parity."""
    top = commands.add_parser(
        "engine", help="serve requests with real forward passes; compare with the simulator"
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")
    serve = verbs.add_parser("serve", help="serve every run that is not recorded yet; needs a GPU")
    add_runs(serve)
    serve.add_argument("--slot-seconds", type=float, default=SLOT_SECONDS, help="time limit of all runs")
    serve.add_argument(
        "--dry-run", action="store_true", help="a tiny model on the CPU, a few requests a scenario"
    )
    serve.set_defaults(run=run_serve)
    parity = verbs.add_parser("parity", help="simulate the recorded runs and report the errors; needs no GPU")
    add_runs(parity)
    parity.add_argument("--hardware", default="", help="profile's name or path; the scenario's when left out")
    parity.add_argument("--development", default=DEVELOPMENT, help="the run that host times are fitted to")
    parity.add_argument("--out", type=Path, help="folder of the report; else the recorded runs' own")
    parity.set_defaults(run=run_parity)


def add_runs(one: argparse.ArgumentParser) -> None:
    """Which runs, and where they are recorded."""
    one.add_argument("scenarios", nargs="*", help="scenario files; calibrate/engine/scenarios when left out")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any field")
    one.add_argument("--data", type=Path, help="folder of the recorded runs; calibrate/data/PROFILE/engine")


def run_serve(given: argparse.Namespace) -> int:
    """Serves; 3 where there is no GPU, 1 where runs are left for the next slot."""
    begun_s = time.monotonic()
    if given.dry_run and os.environ.get("TRITON_INTERPRET") != "1":
        return dry_run(given)
    from calibrate.measure import device
    from calibrate.measure.command import profile_here

    reason = None if given.dry_run else device.why_no_gpu()
    if reason:
        print(f"no GPU to serve on: {reason}", file=sys.stderr)
        return NO_GPU
    runs = engine_runs(given.scenarios, given.set)
    if given.dry_run:  # variants differ in their load, which a rehearsal has not
        runs = list({run.file: run for run in reversed(runs)}.values())[::-1]
    from calibrate.engine.serve import serve_runs

    folder = given.data or (DRY_FOLDER if given.dry_run else DATA / profile_here("") / "engine")
    deadline_s = begun_s + given.slot_seconds - RESERVE_SECONDS
    left = serve_runs(runs, folder, deadline_s, is_dry=given.dry_run)
    if left:
        print(f"{left} runs left; go on with: python -m calibrate engine serve")
    return int(left > 0)


def dry_run(given: argparse.Namespace) -> int:
    """The plan, then one small run of every scenario, in a process that imports the interpreter."""
    runs = engine_runs(given.scenarios, given.set)
    for run in runs:
        print(f"{run.name:24} {len(run.requests().arrival_ps):4} requests, some {expected_s(run):.0f} s")
    from kernels.language import IS_INSTALLED

    if not IS_INSTALLED:
        print("no rehearsal: torch and triton are not installed")
        return 0
    print("rehearsal on the CPU, kernels in Triton's interpreter (times mean nothing):", flush=True)
    given_again = [str(Path(one).resolve()) for one in given.scenarios]
    given_again += [word for one in given.set for word in ("--set", one)]
    folder = (given.data or DRY_FOLDER).resolve()
    command = [sys.executable, "-m", "calibrate", "engine", "serve", "--dry-run", "--data", str(folder)]
    on_the_cpu = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *given_again], cwd=CHECKOUT, env=on_the_cpu, check=False)
    return done.returncode


def run_parity(given: argparse.Namespace) -> int:
    """Simulates what is recorded; 1 where a run that tuned nothing misses what is asked."""
    from calibrate.engine.host_times import fit_host_times
    from calibrate.engine.parity import parity_of
    from calibrate.engine.report import rows_of, write_report
    from sim.hardware import load_hardware

    runs = {run.name: run for run in engine_runs(given.scenarios, given.set)}
    folder = given.data or DATA / "h200-sxm-141gb" / "engine"
    recorded = {name: read_run(folder / name) for name in runs if (folder / name / "run.yaml").is_file()}
    check_recorded(folder, sorted(runs), sorted(recorded), given.development)
    development = runs[given.development].scenario
    hardware = load_hardware(given.hardware) if given.hardware else development.hardware
    overheads = fit_host_times(recorded[given.development], development.model.num_hidden_layers)
    found = []
    for name, one in recorded.items():
        if not one.about.get("is_whole") or one.about.get("is_dry"):
            why = "a dry run" if one.about.get("is_dry") else "cut off"
            print(f"{name}: {why}; left out")
            continue
        is_development = name == given.development
        found.append(parity_of(runs[name], one, hardware, overheads, is_development=is_development))
        print("\n".join("  ".join(row) for row in rows_of(found[-1])), flush=True)
    if not found:
        raise ScenarioError("no whole run to compare", file=str(folder), hint=SERVE)
    about = f"Prices by {hardware.name}; recorded on {recorded[given.development].about['measured_on']}."
    for file in write_report(found, overheads, about, given.out or folder):
        print(f"written: {file}")
    return int(any(not one.is_met for one in found if not one.is_development))


def check_recorded(folder: Path, runs: list[str], recorded: list[str], development: str) -> None:
    """Something must be there, the run that tunes among it."""
    if development not in runs:
        problem = "no such run"
        raise ScenarioError(problem, path="--development", given=development, allowed=", ".join(runs))
    if development not in recorded:
        raise ScenarioError(
            f"the development run {development} is not recorded", file=str(folder),
            given=", ".join(recorded) or "nothing", hint=f"{SERVE}, or --development RUN",
        )  # fmt: skip
