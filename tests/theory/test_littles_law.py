"""Little's law on every shipped scenario: the integral of the number in system is the sum of the stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conservation_laws import littles_law_gap

from sim.kinds.load import load_scenario
from sim.kinds.run import run_one

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios" / "serving").glob("*.yaml"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_littles_law(path: Path) -> None:
    for variant in load_scenario(path).variants:
        workload = variant.scenario.workload
        short = replace(workload, num_requests=120, warmup_requests=min(20, workload.warmup_requests or 0))
        result = run_one(replace(variant.scenario, workload=short), base_dir=path.parent)
        assert len(result.requests.status) > 0
        assert littles_law_gap(result) == 0.0
