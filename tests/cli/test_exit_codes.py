"""Whatever goes wrong ends with one line and its own exit code; 1 means a missed threshold only."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import calibrate.commands
from sim.cli.command import VERBS, main
from sim.errors import InvariantError, ScenarioError

CHECKOUT = Path(__file__).parents[2]

ARGUMENTS = {
    "run": ["tiny.yaml"],
    "sweep": ["tiny.yaml", "--over", "replicas=1,2"],
    "conformance": ["cases"],
    "explain": ["tiny.yaml"],
    "memory": ["--model", "opt-13b", "--hardware", "l4"],
    "validate": ["cases"],
    "check": ["tiny.yaml"],
    "show": ["l4"],
}


def break_verb(monkeypatch: pytest.MonkeyPatch, verb: str, error: BaseException) -> None:
    def broken(_: object) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module(f"sim.cli.{verb}"), "run", broken)


@pytest.mark.parametrize("verb", VERBS)
def test_an_unexpected_exception_in_any_verb_is_one_line_and_70(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_verb(monkeypatch, verb, KeyError("no\nsuch"))
    assert main([verb, *ARGUMENTS.get(verb, [])]) == 70
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"gpuyard: KeyError: 'no\\nsuch' ({__name__}, line ")
    assert "please report this line, the command and its input files" in printed.err
    assert "GPUYARD_TRACEBACK=1" in printed.err


def test_a_message_of_several_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_verb(monkeypatch, "version", ValueError("first\n  second"))
    assert main(["version"]) == 70
    assert "ValueError: first second (" in capsys.readouterr().err


def test_the_traceback_is_printed_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_verb(monkeypatch, "version", ZeroDivisionError("x"))
    monkeypatch.setenv("GPUYARD_TRACEBACK", "1")
    assert main(["version"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert said.splitlines()[-1].startswith("gpuyard: ZeroDivisionError: x (")
    monkeypatch.setenv("GPUYARD_TRACEBACK", "0")
    assert main(["version"]) == 70
    assert capsys.readouterr().err.count("\n") == 1


def test_a_broken_law_prints_its_state_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_verb(monkeypatch, "version", InvariantError("used 3 + free 4 blocks are not 8"))
    assert main(["version"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("gpuyard: a law of the simulation was broken: used 3 + free 4 blocks are not 8\n")
    assert "please report" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "gpuyard: interrupted, nothing was written half\n"),
        (ScenarioError("wrong", file="a.yaml", path="seeds"), 2, "gpuyard: a.yaml: seeds: wrong\n"),
        (OSError(28, "No space left on device"), 2, "gpuyard: No space left on device\n"),
        (PermissionError(13, "Permission denied", "a.csv"), 2, "gpuyard: a.csv: Permission denied\n"),
        (MemoryError(), 70, "gpuyard: MemoryError: ("),
    ],
)
def test_what_is_no_bug_has_its_own_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    break_verb(monkeypatch, "version", error)
    assert main(["version"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_a_verb_that_cannot_be_imported_is_a_bug_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sim.cli.version", None)
    assert main(["version"]) == 70
    assert capsys.readouterr().err.startswith("gpuyard: ModuleNotFoundError: ")


def test_an_exception_in_a_worker_process_is_one_line(tmp_path: Path) -> None:
    """A policy given by path runs in the worker, and what it raises comes back over the pool."""
    code = (
        "import sys, sim.kinds.run, sim.cli.command\n"
        "def broken(task): raise RuntimeError('in the worker')\n"
        "sim.kinds.run.run_task = broken\n"
        "sys.exit(sim.cli.command.main(['run', 'serving/static_vs_continuous', '--jobs', '2', '--quiet',"
        " '--set', 'workload.num_requests=10', '--set', 'workload.warmup_requests=0']))\n"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("gpuyard: RuntimeError: in the worker (")
    assert list(tmp_path.rglob("*.*")) == []


def python(*words: str, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("program", "module", "words"),
    [("sim", "sim.cli.version", ["version"]), ("calibrate", "calibrate.engine_fit", ["fit-engine"])],
)
def test_python_dash_m_ends_alike(program: str, module: str, words: list[str], tmp_path: Path) -> None:
    """The whole process, from ``__main__``: 70 and one line, and no traceback of Python's own."""
    code = (
        f"import runpy, sys, {module} as verb\n"
        "def broken(_): raise RuntimeError('broken')\n"
        "verb.run = verb.run_fit_engine = broken\n"
        f"sys.argv = [{program!r}, *{words!r}]\n"
        f"runpy.run_module({program!r}, run_name='__main__')\n"
    )
    done = python("-c", code)
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert "RuntimeError: broken (__main__, line 2); a bug of ours: please report" in done.stderr


def test_a_command_of_calibrate_ends_like_a_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(error: BaseException) -> None:
        def run(_: object) -> int:
            raise error

        monkeypatch.setattr(calibrate.commands, "run_fit_laws", run)

    for error, code in [(ValueError("v"), 70), (KeyboardInterrupt(), 130), (ScenarioError("s"), 2)]:
        broken(error)
        assert calibrate.commands.main(["fit-laws"]) == code
        said = capsys.readouterr().err
        assert said.startswith("calibrate: ") and said.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        [sys.executable, "-m", "sim", "show", "h100-sxm-80gb"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as writer:  # fmt: skip
        assert writer.stdout and writer.stderr
        writer.stdout.close()
        said = writer.stderr.read()
    assert said == ""
    assert writer.returncode == 141
