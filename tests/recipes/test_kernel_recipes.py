"""The recipe "a Triton kernel is one file and one line of KERNELS".

A dummy kernel is registered; tests and measurements must take it from its entry alone.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from written_measurements import Law, write_measurements

from calibrate.measure.points import all_points, kernel_counts
from calibrate.measure.rehearsal import small_points
from kernels import KERNELS, triad

CHECKOUT = Path(__file__).parents[2]
HAS_TRITON = all(importlib.util.find_spec(name) for name in ("torch", "triton"))
# The line that a contributor would add, for tests that run in a process of their own.
PLUGIN = """
from dataclasses import replace
from kernels import KERNELS, triad
KERNELS["dummy"] = replace(triad.KERNEL, name="dummy", family="other", cpu_libraries=())
"""


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> str:
    entry = replace(triad.KERNEL, name="dummy", family="other", cpu_libraries=())
    monkeypatch.setitem(KERNELS, "dummy", entry)
    return "dummy"


def test_a_new_kernel_is_measured_at_its_own_sizes(dummy: str) -> None:
    planned = [point for point in all_points() if point.kernel == dummy]
    assert [dict(point.size) for point in planned] == [dict(size) for size in triad.KERNEL.sizes]
    assert {(point.family, point.provider) for point in planned} == {("other", "triton")}
    for point in planned:
        counts = triad.KERNEL.counts(**dict(point.size))
        assert kernel_counts(point) == (counts.flops, counts.hbm_bytes)


def test_a_new_kernel_is_rehearsed_and_its_rows_are_read(dummy: str, tmp_path: Path) -> None:
    from calibrate.fit.rows import read_measurements

    assert [point.family for point in small_points() if point.kernel == dummy] == ["other"]
    planned = [point for point in all_points() if point.kernel == dummy]
    write_measurements(tmp_path, Law(), points=planned)
    assert [row.point.kernel for row in read_measurements(tmp_path).rows] == [dummy] * len(planned)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "expected"), [("under_interpreter.py", "4 passed"), ("ahead_of_time.py", "6 passed")]
)
def test_the_kernels_tests_run_the_new_one(
    file: str, expected: str, tmp_path: Path, triton_cache: Path
) -> None:
    """Interpreter: two sizes in two types; compiled: two types for three architectures."""
    if not HAS_TRITON:
        pytest.skip("needs torch and Triton: pip install -e '.[calibrate]'")
    (tmp_path / "with_dummy.py").write_text(PLUGIN, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(tmp_path)])}
    if file == "under_interpreter.py":
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "with_dummy", "-p", "no:xdist", "-k", "dummy"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"tests/kernels/{file}"],
        capture_output=True, text=True, cwd=CHECKOUT, check=False,
        env={**environment, "TRITON_CACHE_DIR": str(triton_cache), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert expected in done.stdout
