"""The README's commands run, its outputs are what they print, its scenario is the shipped one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools.readme import PART, rewritten

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "README.md").read_text(encoding="utf-8")
RUNNABLE = re.findall(r"<!-- run -->\n```(bash|python)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """A shell in which ``gpuyard`` is this checkout's."""
    command = tmp_path / "bin" / "gpuyard"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sim "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    paths = {"PYTHONPATH": str(CHECKOUT), "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    return os.environ | paths


@pytest.mark.parametrize(
    ("language", "code"), RUNNABLE, ids=[code.split("\n")[0][:40] for _, code in RUNNABLE]
)
def test_marked_code_runs(
    language: str, code: str, tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    # Commands that name the checkout's folders find them; nothing is written into the checkout.
    for folder in ("scenarios", "hardware_profiles"):
        (tmp_path / folder).symlink_to(CHECKOUT / folder)
    command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=shell_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_is_code_to_run() -> None:
    assert {language for language, _ in RUNNABLE} == {"bash", "python"}
    assert all(word in TEXT for word in ("make demo", "make test", "gpuyard memory"))


def test_what_the_readme_prints_is_what_the_program_prints() -> None:
    assert {part["what"].split()[0] for part in PART.finditer(TEXT)} == {"limits", "board", "$"}
    assert rewritten(TEXT) == TEXT  # python -m tools.readme


def test_no_group_of_measured_cases_misses_its_bound() -> None:
    assert "| A100 batch, vLLM 2023 (Splitwise): token time |" in TEXT
    assert "**missed**" not in TEXT  # the table is what the cases give: the test above


def test_the_explained_scenario_is_the_shipped_one() -> None:
    (block,) = re.findall(r"```yaml\n(schema_version.*?)```", TEXT, re.DOTALL)
    shipped = (CHECKOUT / "scenarios/serving/static_vs_continuous.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(block) == yaml.safe_load(shipped)


def test_links_into_the_repository_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (CHECKOUT / link).exists()] == []
