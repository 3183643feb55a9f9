"""``python -m calibrate measure``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from sim.errors import ScenarioError

CHECKOUT = Path(__file__).parent.parent.parent
DATA = CHECKOUT / "calibrate" / "data"
DEFAULT_PROFILE = "h200-sxm-141gb"
SLOT_SECONDS = 600
NO_GPU = 3  # exit code


def add_measure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``measure``: kernels, copies, launches and a decode step on the GPU at hand."""
    one = commands.add_parser("measure", help="measure the GPU at hand, in slots of at most ten minutes")
    one.add_argument("--slot", type=int, help="only this slot of the plan (see --dry-run)")
    one.add_argument("--slot-seconds", type=float, default=SLOT_SECONDS, help="time limit of a slot")
    one.add_argument("--only", default="", help="only this family (gemm, attention, decode, ...)")
    one.add_argument("--profile", default="", help="hardware profile; found by the GPU's name when left out")
    one.add_argument("--data", type=Path, default=DATA, help="folder of the measurements")
    one.add_argument("--dry-run", action="store_true", help="print the plan, and rehearse it on the CPU")
    one.set_defaults(run=run_measure)


def run_measure(given: argparse.Namespace) -> int:
    """Prints the plan or measures it; 3 where there is no GPU."""
    from calibrate.measure import device  # torch takes seconds to import: not for `calibrate --help`

    if given.dry_run:
        return dry_run(given)
    reason = device.why_no_gpu()
    if reason:
        print(f"no GPU to measure: {reason}", file=sys.stderr)
        return NO_GPU
    return measure_slots(given)


def profile_here(asked: str) -> str:
    """The profile that the GPU at hand has, or the one that was asked for."""
    from calibrate.measure import device

    profile = asked or device.profile_of(device.device_name())
    if not profile:
        raise ScenarioError("no profile for this GPU", given=device.device_name(), hint="--profile NAME")
    return profile


def measure_slots(given: argparse.Namespace) -> int:
    """One slot, or all of them one after another, each saying what is left; 1 when the device is lost."""
    from calibrate.measure.planning import chosen, plan
    from calibrate.measure.run import DeviceLostError, measure_slot

    profile = profile_here(given.profile)
    for slot in chosen(plan(profile, given.only), given.slot):
        deadline_s = time.monotonic() + given.slot_seconds
        print(f"slot {slot.number}: {len(slot.points)} points, some {slot.expected_s:.0f} s", flush=True)
        try:
            outcome = measure_slot(
                slot, given.data / profile, deadline_s, lambda line: print(line, flush=True)
            )
        except DeviceLostError as lost:
            print(f"the device was lost at {lost}; run the slot again: it goes on behind it", file=sys.stderr)
            return 1
        print(
            f"slot {slot.number}: {outcome.measured} measured, {outcome.refused} refused, {outcome.left} left"
        )
        if outcome.left:
            only = f" --only {given.only}" if given.only else ""
            print(f"go on with: python -m calibrate measure --slot {slot.number}{only}")
    return 0


def dry_run(given: argparse.Namespace) -> int:
    """The plan as a table, then one small point of every kind on the CPU; 1 when one of them failed."""
    from calibrate.measure.planning import chosen, plan, plan_table
    from kernels.language import IS_INSTALLED

    print(plan_table(chosen(plan(given.profile or DEFAULT_PROFILE, given.only), given.slot)))
    if not IS_INSTALLED:
        print("no rehearsal: torch and triton are not installed")
        return 0
    print("rehearsal on the CPU, kernels in Triton's interpreter (times mean nothing):", flush=True)
    command = [sys.executable, "-m", "calibrate.measure.rehearsal", given.only]
    on_the_cpu = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=CHECKOUT, env=on_the_cpu, check=False).returncode
