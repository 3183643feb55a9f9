"""Kernels in the interpreter, ahead of time and on a GPU: each in a process of its own.

``TRITON_INTERPRET`` is read when a kernel's module is imported, so one process cannot do both.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
MISSING = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]


def skip_without_triton() -> None:
    if MISSING:
        how = "pip install -c constraints.txt -e '.[calibrate]'"
        pytest.skip(f"{' and '.join(MISSING)} not installed: {how}")


def run_in_a_process(files: Sequence[str], cache: Path, *arguments: str, **environment: str) -> str:
    """The closing line of pytest on files of this folder; its failures become ours."""
    skip_without_triton()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        [*command, *(str(HERE / file) for file in files)],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_in_the_interpreter(triton_cache: Path) -> None:
    assert " passed" in run_in_a_process(["under_interpreter.py"], triton_cache, TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [["measuring.py", "engine_warm_up.py"], ["engine_serving.py", "engine_parity.py"]],
    ids=["measuring", "serving"],
)
def test_measuring_and_serving_in_the_interpreter(files: list[str], triton_cache: Path) -> None:
    assert " passed" in run_in_a_process(files, triton_cache, TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_compiled_ahead_of_time(architecture: str, triton_cache: Path) -> None:
    assert " passed" in run_in_a_process(["ahead_of_time.py"], triton_cache, "-k", architecture)


def test_on_a_gpu(triton_cache: Path) -> None:
    skip_without_triton()
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: correctness in bfloat16 and timing need one")
    assert " passed" in run_in_a_process(["on_gpu.py"], triton_cache)
