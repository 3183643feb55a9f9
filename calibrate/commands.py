"""``python -m calibrate``: prices of kernels from measurements.

run                measure the GPU at hand, fit, report, in ten minutes; what it does without a command
measure            measure alone, the whole plan in three such slots; --dry-run without a GPU
fit                from what `measure` wrote to a profile and a parity report
fit-laws           fit the kernel laws' constants to published timings, print them or write them into profiles
validate-kernels   cross-validate the laws with whole groups held out, or hold the profiles' constants
                   against other measurements of the same kinds
report             parity plots (HTML) and errors by size (CSV) of the profiles' constants
fit-engine         fit an engine profile's host times to runs under load, workloads left out in turn
engine             serve requests with real forward passes (serve), and compare with the simulator (parity)
import             make a price table that a scenario names as engine.price_table
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from calibrate.engine.command import add_engine
from calibrate.engine_fit import run_fit_engine
from calibrate.fit.one_slot import add_run
from calibrate.fit.rows import is_measured_folder
from calibrate.fit.timings import PROVIDERS
from calibrate.importing.readers import IMPORTERS, ImportSource
from calibrate.kernel_timings import AIC_GPUS, KernelTimings
from calibrate.measure.command import add_measure
from calibrate.timed_kernels import all_timings
from sim.cli.exits import exit_code_of
from sim.errors import ScenarioError
from sim.hardware import hardware_names

MEASURED = Path("../shared/measured")
FITTED = (*AIC_GPUS, "rtx-4090")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: 0 when it did what it should, 1 for a missed target, else see ``sim.cli.exits``."""
    words = sys.argv[1:] if arguments is None else list(arguments)

    def work() -> int:
        given = parser().parse_args(words or ["run"])
        return int(given.run(given))

    return exit_code_of("calibrate", work)


def parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    top = argparse.ArgumentParser(
        prog="python -m calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_fit(commands)
    one = commands.add_parser("fit-laws", help="fit the kernel laws' constants to published timings")
    add_choice(one)
    one.add_argument("--write", action="store_true", help="put the constants into hardware_profiles/")
    one.set_defaults(run=run_fit_laws)
    one = commands.add_parser("validate-kernels", help="errors of the laws on data that a fit has not seen")
    add_choice(one)
    one.add_argument(
        "--use-profiles", action="store_true", help="no fit: the profiles' constants, for data kept aside"
    )
    one.set_defaults(run=run_validate)
    one = commands.add_parser("report", help="parity plots and errors by size of the profiles' constants")
    add_choice(one)
    one.add_argument("--out", type=Path, default=Path("out/calibration"), help="folder to write")
    one.set_defaults(run=run_report)
    one = commands.add_parser("fit-engine", help="fit an engine profile's host times to runs under load")
    one.add_argument("--measured", type=Path, default=MEASURED, help="folder of the measured data")
    one.add_argument("--profile", default="vllm-0.15-h100", help="profile whose other fields are kept")
    one.set_defaults(run=run_fit_engine)
    add_import(commands)
    add_measure(commands)
    add_run(commands)
    add_engine(commands)
    return top


def add_choice(one: argparse.ArgumentParser) -> None:
    """Which measurements."""
    one.add_argument("--data", type=Path, default=MEASURED, help="the folder of the measurements")
    one.add_argument(
        "--profile", choices=hardware_names(), action="append", help="only this device (repeatable)"
    )
    one.add_argument("--operator", action="append", help="only this operator (repeatable)")


def add_fit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``fit``: from a folder that ``calibrate measure`` wrote to a profile."""
    one = commands.add_parser("fit", help="from what `calibrate measure` wrote to a profile and a report")
    one.add_argument("--data", type=Path, required=True, help="the folder, calibrate/data/PROFILE")
    one.add_argument("--profile", default="", help="whose datasheet; default: the folder's name")
    one.add_argument(
        "--provider", choices=tuple(PROVIDERS), default="fastest", help="whose kernels stand for an operator"
    )
    one.add_argument("--out", type=Path, help="folder of the profile and the report; default: the data's")
    one.set_defaults(run=run_fit)


def add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``import``: a price table from somebody's measurements."""
    formats = "; ".join(f"{name}: {one.meaning}" for name, one in IMPORTERS.items())
    one = commands.add_parser("import", help="make a price table (engine.price_table)", epilog=formats)
    one.add_argument("format", choices=tuple(IMPORTERS), help="whose format it is")
    one.add_argument("path", type=Path, help="the folder of the measurements")
    one.add_argument("out", type=Path, help="the folder to write")
    one.add_argument("--tensor-parallel-size", type=int, default=1)
    one.add_argument("--model", default="", help="a shipped model, or a path to its config.json")
    one.add_argument(
        "--provider",
        choices=tuple(PROVIDERS),
        default="fastest",
        help="measured: whose kernels, attention apart",
    )
    one.add_argument("--gpu", default="", help="aic, vidur: the GPU (aic: its name in the tables, h100_sxm)")
    one.set_defaults(run=run_import)


def chosen(given: argparse.Namespace) -> Iterator[KernelTimings]:
    """The timings that the options name, one device and operator after another."""
    if not given.data.is_dir():
        raise ScenarioError("no such folder of measurements", given=str(given.data), hint="--data FOLDER")
    for profile in given.profile or FITTED:
        for timings in all_timings(given.data, profile):
            if len(timings.measured_s) and (not given.operator or timings.operator in given.operator):
                yield timings


def run_fit_laws(given: argparse.Namespace) -> int:
    """Fits, prints the blocks, and writes them on request."""
    from calibrate.kernel_fits import fit, kernel_fit
    from calibrate.profile_writing import write_all, yaml_block
    from sim.hardware import KernelFit

    fits: dict[str, dict[str, KernelFit]] = {}
    for timings in chosen(given):
        one = kernel_fit(timings, fit(timings))
        fits.setdefault(timings.profile, {})[timings.operator] = one  # the newest version stays
        print(
            f"{timings.profile:16} {timings.operator:28} {timings.variant:24} {len(timings.measured_s):6} "
            f"timings: median {one.median_error_fraction:.1%}, p90 {one.p90_error_fraction:.1%}",
            file=sys.stderr,
            flush=True,
        )
    if given.write:
        print(f"written: {', '.join(write_all(fits))}", file=sys.stderr)
    else:
        for profile, fitted in fits.items():
            print(f"# {profile}.yaml\n{yaml_block(fitted, {})}")
    return 0


def run_fit(given: argparse.Namespace) -> int:
    """A profile and a parity report from what was measured here."""
    from calibrate.fit.command import fit_folder

    if given.data.is_dir() and not is_measured_folder(given.data):
        raise ScenarioError(
            "not a folder that `calibrate measure` wrote",
            path="--data",
            given=str(given.data),
            hint="published timings: python -m calibrate fit-laws --data FOLDER",
        )
    return fit_folder(given.data, profile=given.profile, choice=given.provider, out=given.out)


def run_validate(given: argparse.Namespace) -> int:
    """Prints the table; 1 where a target is missed."""
    from calibrate.validation_table import print_table

    return print_table(chosen(given), use_profiles=given.use_profiles)


def run_report(given: argparse.Namespace) -> int:
    """Writes the report's files."""
    from calibrate.fit_report import write_report

    for file in write_report(chosen(given), given.out):
        print(f"written: {file}")
    return 0


def run_import(given: argparse.Namespace) -> int:
    """Reads, writes, reads back, and says what is there."""
    from calibrate.importing.table_writing import write_table

    print(f"reading {given.path} ...")
    source = ImportSource(
        folder=given.path,
        model=given.model,
        gpu=given.gpu,
        tensor_parallel_size=given.tensor_parallel_size,
        provider=given.provider,
    )
    table = write_table(IMPORTERS[given.format].read(source), given.out)
    points = "x".join(str(len(axis)) for axis in table.attention.points)
    sizes = sum(len(curve.sizes) for curve in table.per_token.values())
    print(f"{table.model} on {table.device}: {len(table.per_token)} operators, {sizes} times by tokens,")
    print(f"{len(table.per_sequence)} by sequences, an attention grid of {points} points")
    print(f"written to {given.out}; name it in a scenario: engine.price_table: {given.out}")
    return 0
