"""README and docs/: code runs, outputs are what the program prints, links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sim.cli.command import main as gpuyard
from sim.kinds.load import load_scenario
from tools.docs import CHECKOUT, Block, blocks, pages, parts, rewritten
from tools.docs_reference import GENERATED
from tools.gallery import all_committed
from tools.pictures import gallery_picture

README_BYTES = 6_000
PICTURE_BYTES = 40_000
TEXTS = {path.relative_to(CHECKOUT).as_posix(): path.read_text(encoding="utf-8") for path in pages()}
CODE = {name: [*blocks(text)] for name, text in TEXTS.items()}
RUN = ("run", "run with")
# What a page's commands may name: the checkout's own folders, and recorded traces, whose place a sample takes
# that is laid out alike.
AT_HAND = {
    "scenarios": "scenarios",
    "hardware_profiles": "hardware_profiles",
    "tests": "tests",
    "conversation_trace.jsonl": "scenarios/serving/traces/mooncake_layout_synthetic.jsonl",
    "AzureLLMInferenceTrace_conv.csv": "scenarios/serving/traces/azure_layout_synthetic.csv",
}
# Their parts take the validation cases, all of them: minutes.
SLOW_PARTS = {"board", "trust"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder for a page's commands: nothing is written into the checkout."""
    for name, place in AT_HAND.items():
        (tmp_path / name).symlink_to(CHECKOUT / place)
    return tmp_path


@pytest.mark.parametrize(
    "name", [name for name, code in CODE.items() if any(one.word in RUN for one in code)]
)
def test_a_page_s_code_runs(name: str, work: Path) -> None:
    for block in CODE[name]:
        if block.word == "file":
            (work / block.rest).write_text(block.code, encoding="utf-8")
            if "schema_version:" in block.code:
                load_scenario(work / block.rest)
        elif block.word in RUN:
            run(block, work)


def run(block: Block, folder: Path) -> None:
    """Commands in this process, one after another; Python as a program of its own."""
    if block.language == "python":
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, "-c", block.code]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        return
    said = io.StringIO()
    commands = block.code.replace("\\\n", " ").splitlines()
    for command in filter(None, (shlex.split(line, comments=True) for line in commands)):
        assert command[0] == "gpuyard", f"line {block.line}: only gpuyard and Python can be run here"
        complaint = io.StringIO()
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(complaint),
        ):
            code = gpuyard([*command[1:], *shlex.split(block.rest)])
        assert code == 0, f"line {block.line}: {shlex.join(command)}: {complaint.getvalue()}{said.getvalue()}"
    assert said.getvalue(), f"line {block.line} prints nothing"


@pytest.mark.parametrize("name", CODE)
def test_every_block_says_what_becomes_of_it(name: str) -> None:
    assert [block.line for block in CODE[name] if not block.word] == []
    assert all(block.rest for block in CODE[name] if block.word not in ("run", "begin"))
    assert {block.language for block in CODE[name] if block.word in RUN} <= {"bash", "python"}


def test_a_block_that_says_nothing_is_found() -> None:
    said = (
        "<!-- run with: --quiet -->\n```bash\ngpuyard list\n```\n\ntext\n\n```bash\nls\n```\n\n    indented\n"
    )
    assert [(one.word, one.rest) for one in blocks(said)] == [("run with", "--quiet"), ("", ""), ("", "")]


def test_there_is_code_to_run() -> None:
    languages = {block.language for code in CODE.values() for block in code if block.word in RUN}
    assert languages == {"bash", "python"}
    assert all(word in TEXTS["README.md"] for word in ("make demo", "make test", "gpuyard run"))


@pytest.mark.parametrize(
    "name", [name for name, text in TEXTS.items() if set(parts(text)) and not set(parts(text)) & SLOW_PARTS]
)
def test_what_a_page_prints_is_what_the_program_prints(name: str) -> None:
    assert rewritten(TEXTS[name]) == TEXTS[name]  # python -m tools.docs


@pytest.mark.slow
def test_what_the_pages_say_about_trust_is_what_the_measured_cases_give() -> None:
    slow = [name for name, text in TEXTS.items() if set(parts(text)) & SLOW_PARTS]
    assert slow == ["README.md", "docs/validation.md"]
    for name in slow:
        assert rewritten(TEXTS[name]) == TEXTS[name], name  # python -m tools.docs
    # The table is what the cases give, so this is about them.
    assert "| A100 batch, vLLM 2023 (Splitwise): token time |" in TEXTS["docs/validation.md"]
    assert "**missed**" not in TEXTS["docs/validation.md"]


def test_the_readme_is_short_and_its_scenario_has_twelve_lines() -> None:
    assert len(TEXTS["README.md"].encode()) <= README_BYTES
    (scenario,) = [block for block in CODE["README.md"] if block.language == "yaml"]
    assert len(scenario.code.splitlines()) <= 12
    assert yaml.safe_load(scenario.code)["kind"] == "serving"


@pytest.mark.parametrize("name", TEXTS)
def test_links_into_the_repository_lead_somewhere(name: str) -> None:
    here = (CHECKOUT / name).parent
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", TEXTS[name])
    generated = {CHECKOUT / "docs" / page for page in GENERATED}
    gone = [link for link in links if not (here / link).exists() and (here / link).resolve() not in generated]
    assert gone == []


def test_pictures_are_small_and_shown() -> None:
    shown = {
        (CHECKOUT / name).parent / link
        for name, text in TEXTS.items()
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    }
    shown |= {gallery_picture(entry["scenario"]) for entry in all_committed()}
    files = [path for path in (CHECKOUT / "docs").rglob("*") if path.suffix in (".png", ".webp", ".svg")]
    assert {path.resolve() for path in shown} == {path.resolve() for path in files}
    assert [path.name for path in files if path.stat().st_size > PICTURE_BYTES] == []
