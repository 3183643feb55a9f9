"""Shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CHECKOUT = Path(__file__).parent.parent
SHARED = CHECKOUT.parent / "shared"

# Examples are drawn from the test's own name: the same on every machine and on every run.
settings.register_profile(
    "gpuyard", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gpuyard")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measured data and traces beside the checkout; tests that need it skip without it."""
    if SHARED.is_dir():
        return SHARED
    if os.environ.get("GPUYARD_NO_SKIPS", "0") != "0":
        pytest.fail("GPUYARD_NO_SKIPS is set, and there is no folder ../shared beside the checkout")
    pytest.skip("no folder ../shared with measured data and traces beside the checkout")


@pytest.fixture(scope="session")
def triton_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Triton keeps what it compiled, by the hash of source, options, target and compiler.

    It outlives the session: a kernel that nobody has touched is not compiled again.
    """
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    return cache.mkdir("triton") if cache else tmp_path_factory.mktemp("triton")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
