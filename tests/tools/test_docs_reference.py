"""The pages that nobody writes say everything that there is, and the site builds without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.kinds.load import load_scenario
from sim.kinds.registry import KINDS
from sim.kinds.run import run_one
from sim.kinds.schema import scenario_schema
from sim.results.verdict import SAID
from tools.docs import CHECKOUT, PART
from tools.docs_columns import COLUMNS
from tools.docs_reference import GENERATED, api_page, columns_page, metrics_page, scenario_page
from tools.docs_site import repository_url
from tools.pictures import PICTURES

SCENARIOS = {
    "serving": (
        "serving/static_vs_continuous",
        ["workload.num_requests=20", "workload.warmup_requests=0", "thresholds=[]"],
    ),
    "kernel": ("kernel/fused_norm", []),
    "training": ("training/one_slow_gpu", ["training.num_steps=5", "thresholds=[]"]),
}
TECHNIQUES = sorted((CHECKOUT / "docs" / "techniques").glob("*.md"))


def keys(schema: Mapping[str, Any]) -> Iterator[str]:
    """Every key of every mapping that a scenario may hold."""
    for name, one in schema["$defs"].items():
        if not name.endswith(("Differences", "Variant")):
            yield from one.get("properties", {})


def test_every_key_of_a_scenario_is_on_its_page() -> None:
    page = scenario_page()
    assert {key for key in keys(scenario_schema()) if f"| `{key}` |" not in page} == set()
    assert page.count("\n## kind: ") == len(KINDS)
    # Meaning, values, bounds and default of one, and a link to a mapping inside.
    assert "| `replicas` | identical engines behind a router | whole number ≥ 1, ≤ 10000 | `1` |" in page
    assert "| `engine` | one engine | [a mapping](#engineconfig) |" in page


def test_a_mapping_is_described_once_and_every_link_to_one_leads_there() -> None:
    page = scenario_page()
    anchors = re.findall(r"\{ #(\w+) \}", page)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= set(anchors)


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_is_on_its_page(kind: str) -> None:
    page = metrics_page()
    for metric in KINDS[kind].metrics.values():
        assert f"`{metric.name}`" in page, metric.name
    assert metrics_page().count("\n## ") == len(KINDS) + 1  # and the verdicts


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_of_the_records_is_on_its_page(kind: str) -> None:
    name, changes = SCENARIOS[kind]
    variant = load_scenario(name, overrides=changes).variants[0]
    result = run_one(variant.scenario, variant=variant.name, seed=1, base_dir=Path())
    tables = KINDS[kind].record_tables
    assert {name: [column.name for column in made(result)] for name, made in tables.items()} == {
        name: [*file.columns] for name, file in COLUMNS[kind].items()
    }
    for file in COLUMNS[kind].values():
        assert all(f"| `{column}` |" in columns_page() for column in file.columns)


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    page = api_page()
    assert [name for name in sim.__all__ if f"## sim.{name} " not in page] == ["__version__"]


@pytest.mark.parametrize("path", TECHNIQUES, ids=lambda path: path.stem)
def test_a_technique_names_only_keys_that_exist(path: Path) -> None:
    known = {*keys(scenario_schema())}
    named = re.findall(r"`((?:\w+\.)+\w+)`", path.read_text(encoding="utf-8"))
    files = (".py", ".yaml", ".json", ".hpp", ".csv")
    unknown = [
        one for one in named if not one.endswith(files) and not set(one.split(".")) <= known | {"batching"}
    ]
    assert unknown == []


@pytest.mark.parametrize("path", [one for one in TECHNIQUES if one.stem != "index"], ids=lambda one: one.stem)
def test_a_technique_has_formula_scenario_picture_and_its_limits(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Formula", "Ask", "What is modelled"]
    assert re.search(r"\n```bash\ngpuyard run \w+/\w+", text)
    assert (f"](../pictures/{path.stem}.webp)" in text) == (path.stem in PICTURES)
    assert f"]({path.name})" in (path.parent / "index.md").read_text(encoding="utf-8")
    assert not PART.search(text)


def test_a_link_that_leaves_the_docs_leads_to_the_repository() -> None:
    here, home = "techniques/paged_kv.md", "https://example.org/gpuyard"
    assert repository_url("../limits.md", here, home) == "../limits.md"
    assert repository_url("../../sim/rng.py", here, home) == f"{home}/blob/main/sim/rng.py"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
        if os.environ.get("GPUYARD_NO_SKIPS", "0") != "0":
            pytest.fail("GPUYARD_NO_SKIPS is set, and MkDocs is not installed: pip install -e '.[docs]'")
        pytest.skip("MkDocs is not installed (pip install -e '.[docs]'): the site was not built")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for name in (*GENERATED, "index.md", "tutorial.md", "techniques/paged_kv.md"):
        assert (tmp_path / name).with_suffix(".html").is_file(), name
    api = (tmp_path / "reference" / "api.html").read_text(encoding="utf-8")
    assert "https://github.com/gpuyard/gpuyard/blob/main/scenarios/serving/" in (
        tmp_path / "techniques" / "paged_kv.html"
    ).read_text(encoding="utf-8")
    assert "overrides" in api  # a parameter of load_scenario: docstrings and signatures were found


def test_every_verdict_is_explained_and_a_long_list_of_values_is_cut() -> None:
    page = metrics_page()
    assert all(f"| `{word}` | {said.phrase} | {said.when} |" in page for word, said in SAID.items())
    [row] = [
        line
        for line in scenario_page().splitlines()
        if line.startswith("| `answer_by` |") and "others" in line
    ]
    assert len(row) < 400
