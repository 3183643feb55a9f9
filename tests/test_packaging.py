"""The wheel: what is in it, and that it works in an empty folder, far from any checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import sim

CHECKOUT = Path(__file__).parent.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("build") is None or importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs build and hatchling: pip install 'gpuyard[dev]'")
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(CHECKOUT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into; its dependencies are those of the tests."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target"]
    subprocess.run([*command, str(target), str(wheel)], check=True, capture_output=True)
    return target


def gpuyard(installed: Path, folder: Path, *arguments: str) -> str:
    """Standard output of the installed command, run in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, str(installed / "bin" / "gpuyard"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_ships_sim_with_its_files_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"sim", f"gpuyard-{sim.__version__}.dist-info"}
    shipped = {name for name in names if name.startswith("sim/")}
    for folder, place in (("hardware_profiles", "sim/_data/"), ("scenarios", "sim/_data/"), ("sim", "")):
        for path in (CHECKOUT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                assert place + path.relative_to(CHECKOUT).as_posix() in shipped
    assert not [name for name in shipped if name.endswith((".pyc", ".html"))]
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_lists_and_checks_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    listed = gpuyard(installed, tmp_path, "list")
    assert "h100-sxm-80gb" in listed
    assert "llama-3.1-8b" in listed
    assert "vllm-2024-offline" in listed
    assert "serving/static_vs_continuous" in listed
    data = installed / "sim" / "_data"
    checked = gpuyard(
        installed, tmp_path, "check", *(str(data / f) for f in ("scenarios", "hardware_profiles"))
    )
    assert len(checked.splitlines()) == sum(1 for _ in data.glob("scenarios/**/*.yaml")) + sum(
        1 for _ in data.glob("hardware_profiles/*.yaml")
    )
    assert not list(tmp_path.iterdir())


def test_the_wheel_runs_a_shipped_scenario_by_name(installed: Path, tmp_path: Path) -> None:
    more = ["--set", "workload.num_requests=300", "--set", "thresholds=[]", "--seeds", "1", "--jobs", "1"]
    assert "continuous" in gpuyard(installed, tmp_path, "run", "serving/static_vs_continuous", *more)
    report = (tmp_path / "out" / "static_vs_continuous" / "report.html").read_text(encoding="utf-8")
    assert report.startswith("<!DOCTYPE html>")
    assert "Plotly" in report
    # A scenario that reads a trace shipped beside it.
    printed = gpuyard(
        installed, tmp_path, "run", "serving/azure_conversation", "--no-report", "--quiet", "--json", "-"
    )
    assert json.loads(printed)["runs"][0]["whole_run"]["num_unfinished"] == 0


def test_the_checkout_reads_its_own_folders() -> None:
    from sim.scenario.shipped import data_dir, scenario_paths

    assert data_dir("scenarios") == CHECKOUT / "scenarios"
    assert data_dir("hardware_profiles") == CHECKOUT / "hardware_profiles"
    assert data_dir("models") == CHECKOUT / "sim" / "_data" / "models"
    stems = [path.stem for path in scenario_paths()]
    assert len(stems) == len(set(stems))  # reports/ has a file per stem, out/ a folder


def test_no_package_index_and_no_path_of_a_machine_is_named() -> None:
    hosts = re.compile(
        r"index-url|extra-index|--find-links|https?://[^ /]*(?:pypi|pythonhosted|download\.pytorch)"
    )
    files = [
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        ".ci/run",
        ".pre-commit-config.yaml",
        "README.md",
    ]
    for name in files:
        assert not hosts.search((CHECKOUT / name).read_text(encoding="utf-8")), name


def test_tests_run_with_pinned_versions() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    wanted = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    names = {re.split(r"[<>=;\[ ]", one)[0].lower() for one in wanted}
    assert names <= pinned
    assert {"torch==2.13.0", "triton==3.7.1"} <= set(lines)


def test_the_changelog_has_the_version() -> None:
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{sim.__version__}]" in text or "## [Unreleased]" in text
