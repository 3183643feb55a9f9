"""Engine profiles: files of host times that scenarios name, and what they may differ in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli.catalog import engine_table, show
from sim.cli.command import main
from sim.errors import ScenarioError
from sim.hardware import hardware_names
from sim.hardware.engine_profile import engine_profile_names, load_engine_profile
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario

PROFILE = """\
name: mine
engine: vllm
version: "0.15"
host: a desk
overheads:
  step_s: {value: 2 ms, source: "bench, 2026-11"}
  frontend_s: {value: 11 ms, source: "bench, 2026-11"}
  cudagraph_capture_sizes: {value: [1, 2, 4], source: "start-up log"}
notes: of one machine
"""
SCENARIO: dict[str, Any] = {
    "schema_version": 1,
    "question": "?",
    "kind": "serving",
    "hardware": "h100-sxm-80gb",
    "model": "llama-3.1-8b",
    "workload": {
        "arrivals": {"process": "poisson", "requests_per_s": 2},
        "prompt_tokens": {"distribution": "fixed", "value": 100},
        "output_tokens": {"distribution": "fixed", "value": 10},
        "num_requests": 5,
    },
}


def written(folder: Path, text: str = PROFILE, **engine: Any) -> Path:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    path = folder / "scenario.yaml"
    tree = {**SCENARIO, "engine": {"profile": "mine.yaml", **engine}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_a_scenario_has_its_profiles_times(tmp_path: Path) -> None:
    overheads = load_scenario(written(tmp_path)).variants[0].scenario.engine.overheads
    assert (overheads.step_s, overheads.frontend_s) == (0.002, 0.011)
    assert overheads.cudagraph_capture_sizes == (1, 2, 4)
    assert overheads.source == "engine profile mine: bench, 2026-11; start-up log"


def test_a_scenario_may_differ_from_its_profile(tmp_path: Path) -> None:
    overheads = (
        load_scenario(written(tmp_path, overheads={"step_s": "3 ms"})).variants[0].scenario.engine.overheads
    )
    assert (overheads.step_s, overheads.frontend_s) == (0.003, 0.011)
    assert "and the scenario" in overheads.source


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({}, False),
        ({"async_scheduling": True}, True),
        ({"batching": "continuous"}, False),
        ({"profile": "other.yaml"}, False),
        ({"profile": None}, True),  # what vLLM does where nobody says anything
    ],
)
def test_an_engine_without_asynchronous_scheduling_says_so(
    tmp_path: Path, engine: dict[str, Any], expected: bool
) -> None:
    (tmp_path / "other.yaml").write_text("name: other\nbase: mine.yaml\n", encoding="utf-8")
    said = f'{PROFILE}async_scheduling: {{value: false, source: "too old"}}\n'
    scenario = load_scenario(written(tmp_path, said, **engine)).variants[0].scenario
    assert scenario.engine.async_scheduling is expected
    assert "too old" not in scenario.engine.overheads.source
    assert "too old" in show(str(tmp_path / "mine.yaml"))


def test_a_profile_may_differ_from_its_base(tmp_path: Path) -> None:
    written(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(
        "name: other\nbase: mine.yaml\noverheads:\n  step_s: {value: 1 ms, source: faster host}\n",
        encoding="utf-8",
    )
    one = load_engine_profile(str(other))
    assert (one.overheads.step_s, one.overheads.frontend_s, one.engine) == (0.001, 0.011, "vllm")
    assert one.sources["step_s"] == "faster host"
    assert "faster host" in show(str(other)) and "1.00 ms" in show(str(other))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("step_s: {value: 2 ms", "step_s: {value: 2 GB", "overheads.step_s"),
        ("step_s: {value: 2 ms", "step_s: {value: -1", "overheads.step_s"),
        ("step_s: {value", "steps: {value", "did you mean step_s"),
        ("{value: 2 ms, source", "{valu3: 2 ms, source", "valu3"),
        ('{value: 2 ms, source: "bench, 2026-11"}', "2 ms", "overheads.step_s"),
        ('{value: 2 ms, source: "bench, 2026-11"}', "{value: 2 ms}", "source"),
        ('version: "0.15"', "version: 0.15", "quotes"),
        ("engine: vllm\n", "", "engine"),
        ("name: mine", "name: mine\nbase: mine.yaml", "its own base"),
        ("name: mine", "name: mine\nbase: nobody", "no such engine profile"),
        ("[1, 2, 4]", "[0, 2]", "cudagraph_capture_sizes"),
        ("[1, 2, 4]", "many", "cudagraph_capture_sizes"),
        ("notes:", "async_scheduling: {value: maybe, source: x}\nnotes:", "async_scheduling"),
        ("notes:", "async_scheduling: false\nnotes:", "async_scheduling"),
        ("notes:", "hardware: h100-sxm-80gb\nnotes:", "hardware"),
        ("notes:", "hardware: [1]\nnotes:", "hardware"),
    ],
)
def test_broken_profiles_say_what_is_wrong(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in PROFILE
    with pytest.raises(ScenarioError) as error:
        load_scenario(written(tmp_path, PROFILE.replace(old, new)))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nobody", "no such engine profile"),
        ("nofile.yaml", "no such file"),
        (3, "expected an engine profile"),
    ],
)
def test_unknown_profiles(tmp_path: Path, given: object, says: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load_scenario(written(tmp_path, **{"profile": given}))
    assert says in str(error.value) and "engine.profile" in str(error.value)


def test_profiles_are_checked_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path)
    assert main(["check", str(tmp_path / "mine.yaml")]) == 0
    assert "engine profile of vllm 0.15" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "mine.yaml"), "--json"]) == 0
    assert '"frontend_s": 0.011' in capsys.readouterr().out


def test_every_shipped_profile_has_sources() -> None:
    for name in engine_profile_names():
        one = load_engine_profile(name)
        assert name == one.name and name in engine_table()
        assert one.sources and all(one.sources.values())


def test_a_report_says_which_variant_has_which_host_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {"alone": {"engine": {"profile": None}}, "hosted": {}}
    path = written(tmp_path)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(
        yaml.safe_dump({**tree, "compare": {"reference": "alone", "variants": variants}}), "utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(path), "--out", "out", "--jobs", "1"]) == 0
    report = Path("out/report.html").read_text(encoding="utf-8").replace("<wbr>", "")
    said = re.findall(r"<tr><th scope=\"row\">(engine\.overheads\..*?)</tr>", report)
    assert [row.split("</th>")[0] for row in said] == [
        "engine.overheads.frontend_s (hosted)",
        "engine.overheads.step_s (hosted)",
        "engine.overheads.cudagraph_capture_sizes (hosted)",
    ]
    assert all("bench, 2026-11" in row for row in said) and "3 sizes to 4" in said[2]


@pytest.mark.parametrize("profile", engine_profile_names())
def test_every_shipped_profile_says_on_which_devices_it_was_measured(profile: str) -> None:
    devices = load_engine_profile(profile).hardware
    assert devices and set(devices) <= set(hardware_names())


@pytest.mark.parametrize(
    ("hardware", "engine", "is_warned"),
    [
        ("h100-sxm-80gb", {"profile": "vllm-0.15-h100"}, False),
        ({"base": "h100-sxm-80gb", "usd_per_hour": 1}, {"profile": "vllm-0.15-h100"}, False),
        ("h200-sxm-141gb", {"profile": "vllm-0.15-h100"}, True),
        ("mi300x", {"profile": "vllm-2024-offline"}, True),
        ("a100-sxm-40gb", {"profile": "vllm-2024-offline"}, False),
        ("mi300x", {"overheads": {"step_s": "1 ms"}}, False),
        ("mi300x", {"overheads": {"step_s": "1 ms", "measured_on": ["h100-sxm-80gb"]}}, True),
        ("mi300x", {"profile": "mine.yaml"}, False),  # it does not say where it was measured
    ],
)
def test_host_times_of_another_device_are_warned_of(
    tmp_path: Path, hardware: Any, engine: dict[str, Any], is_warned: bool
) -> None:
    path = written(tmp_path)
    path.write_text(yaml.safe_dump({**SCENARIO, "hardware": hardware, "engine": engine}), encoding="utf-8")
    warnings = run_scenario(load_scenario(path), record_block_map=False).comparison.warnings
    found = [caution for _, caution in warnings if caution.kind == "engine_profile_elsewhere"]
    assert bool(found) is is_warned
    if found:
        assert "h100-sxm-80gb" in found[0].observation


def test_a_base_s_devices_are_those_of_what_differs_from_it(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("name: other\nbase: vllm-0.15-h100\n", encoding="utf-8")
    assert load_engine_profile(str(other)).hardware == ("h100-sxm-80gb",)
    other.write_text("name: other\nbase: vllm-0.15-h100\nhardware: [l4]\n", encoding="utf-8")
    assert load_engine_profile(str(other)).hardware == ("l4",)
