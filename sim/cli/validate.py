"""``gpuyard validate``: a folder of measured cases, run and scored."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from sim.cli.exits import FINE, THRESHOLD_MISSED
from sim.errors import ScenarioError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, and what it must reach."""
    parser.add_argument("folder", metavar="DIR", help="scenarios with a measured list, *.yaml")
    parser.add_argument(
        "--max-median-error", type=float, metavar="FRACTION", help="exit 1 where a group's median is above"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run every case, print errors by case and by group."""
    from sim.trust.board import run_case, score_groups

    paths = sorted(Path(arguments.folder).glob("*.yaml"))
    if not paths:
        raise ScenarioError("no cases in it", file=arguments.folder, allowed="a folder with *.yaml")
    rows = [row for path in paths for row in run_case(path)]
    groups = score_groups(rows)
    if arguments.json:
        cases = [asdict(row) | {"error": row.error} for row in rows]
        print(json.dumps({"cases": cases, "groups": [asdict(group) for group in groups]}, indent=2))
    else:
        for row in rows:
            m = row.measured
            rival = f"  rival {m.rival_error:+.1%}" if m.rival_error is not None else ""
            seen = "  calibrated" if m.seen_by_fit else ""
            print(
                f"  {row.case:<34}{m.metric:<18}{m.value:>11.5g}{row.predicted:>11.5g}"
                f"{row.error:>+9.1%}{rival}{seen}"
            )
        for g in groups:
            rank = "-" if g.rank_correlation is None else f"{g.rank_correlation:.2f}"
            kind = "calibrated on" if g.seen_by_fit else "not seen by a fit"
            print(
                f"{g.group}: {g.values} values, {kind}: median {g.median_error:.1%}, p90 {g.p90_error:.1%}, "
                f"bias {g.bias:+.1%}, rank {rank}"
            )
    limit = arguments.max_median_error
    missed = limit is not None and any(group.median_error > limit for group in groups)
    return THRESHOLD_MISSED if missed else FINE
