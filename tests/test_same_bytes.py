"""A byte that another BLAS core, SIMD level or libm changes is found; a short scenario has none."""

from __future__ import annotations

from tools import same_bytes
from tools.same_bytes import Run, compare, run_under, settings


def run_of(text: str) -> Run:
    return Run(summaries={"a": text}, libraries={})


def test_another_byte_is_named_with_its_line() -> None:
    found = compare({"first": run_of("1\n2\n3"), "same": run_of("1\n2\n3"), "other": run_of("1\n2.5\n3\n4")})
    assert found == ["a differs: other", "    line 2: 2 | 2.5", "    line 4: None | 4"]


def test_each_setting_is_set_alone() -> None:
    made = settings()
    assert next(iter(made.values())) == {}
    assert {name for setting in made.values() for name in setting} <= set(same_bytes.VARIABLES)
    assert all(len(setting) <= 1 for setting in made.values())
    features = next(
        one["NPY_DISABLE_CPU_FEATURES"] for one in made.values() if "NPY_DISABLE_CPU_FEATURES" in one
    )
    assert features.split() == same_bytes.cpu_features()


def test_learning_is_the_same_under_every_setting() -> None:
    scenarios = {
        "training/staleness_and_loss": ("seeds=[1]", "training.num_steps=5", "learning.target_loss=null")
    }
    runs = {name: run_under(setting, scenarios) for name, setting in settings().items()}
    assert compare(runs) == []
    assert all(run.summaries.keys() == scenarios.keys() for run in runs.values())


def test_the_shortened_scenarios_are_scenarios() -> None:
    from sim.kinds.load import load_scenario

    for name, overrides in same_bytes.SCENARIOS.items():
        assert load_scenario(name, overrides=overrides).variants, name
    assert set(same_bytes.libraries()) == {"BLAS", "NumPy", "libm"}
