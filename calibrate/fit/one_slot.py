"""``python -m calibrate run``: measures, fits and reports, all within one slot of ten minutes.

Every family is measured at some of its sizes first, then at the others for as long as there is time; the last
``FIT_SECONDS`` are the fit's. Run again it goes on where it ended, and fits to everything that is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from calibrate.fit.timings import PROVIDERS
from calibrate.measure.command import DATA, NO_GPU, SLOT_SECONDS, profile_here
from sim.errors import ScenarioError

FIT_SECONDS = 90.0  # 30 s on two slow cores for the whole plan's rows, and room


def add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``run``: everything in one slot."""
    one = commands.add_parser("run", help="measure, fit and report within one slot of ten minutes")
    one.add_argument("--slot-seconds", type=float, default=SLOT_SECONDS, help="time limit of all of it")
    one.add_argument("--profile", default="", help="hardware profile; found by the GPU's name when left out")
    one.add_argument("--data", type=Path, default=DATA, help="folder of the measurements, by profile")
    one.add_argument(
        "--provider", choices=tuple(PROVIDERS), default="fastest", help="whose kernels are fitted"
    )
    one.set_defaults(run=run_one_slot)


def run_one_slot(given: argparse.Namespace) -> int:
    """Measures until the fit's time has come; 3 where there is no GPU, 1 when it is lost."""
    begun_s = time.monotonic()
    from calibrate.measure import device

    reason = device.why_no_gpu()
    if reason:
        print(f"no GPU to measure: {reason}", file=sys.stderr)
        return NO_GPU
    if given.slot_seconds <= FIT_SECONDS:
        raise ScenarioError(
            "too short to measure anything", path="--slot-seconds", given=given.slot_seconds,
            allowed=f"above {FIT_SECONDS:g}, which are the fit's",
        )  # fmt: skip
    profile = profile_here(given.profile)
    folder = given.data / profile
    left = measure_for(folder, profile, begun_s + given.slot_seconds - FIT_SECONDS)
    from calibrate.fit.command import fit_folder

    done = fit_folder(folder, profile=profile, choice=given.provider)
    print(f"{left} points left; go on with: python -m calibrate run" if left else "all points are measured")
    return done


def measure_for(folder: Path, profile: str, deadline_s: float) -> int:
    """What comes first, then the rest, until the deadline on the monotonic clock; the points left."""
    from calibrate.measure.planning import one_slot_plan
    from calibrate.measure.run import DeviceLostError, measure_slot

    left = 0
    for part in one_slot_plan(profile):
        try:
            outcome = measure_slot(part, folder, deadline_s, lambda line: print(line, flush=True))
        except DeviceLostError as lost:
            print(f"the device was lost at {lost}; the next run goes on behind it", file=sys.stderr)
            return len(part.points)
        left += outcome.left
    return left
