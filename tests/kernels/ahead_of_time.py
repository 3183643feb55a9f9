"""Every kernel compiled for GPUs that are not here: SRAM, registers, spills. Run by test_kernels.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from recorded_launches import recorded

from calibrate.measure.points import all_points
from kernels import KERNELS, matmul
from kernels.launch import Capability, Launch, LaunchError, Tiles, check_resources, meta

CAPABILITIES: tuple[Capability, ...] = ((8, 0), (9, 0), (10, 0))


def cases() -> Iterator[Any]:
    for major, minor in CAPABILITIES:
        for name, kernel in KERNELS.items():
            for label, launches in kernel.builds((major, minor)).items():
                for launch in launches:
                    shown = f"sm_{major}{minor} {name} {label} {launch.kernel.__name__}"
                    yield pytest.param((major, minor), launch, id=shown)


@pytest.mark.parametrize(("capability", "launch"), list(cases()))
def test_fits_the_device_and_does_not_spill(
    capability: Capability, launch: Launch, request: pytest.FixtureRequest
) -> None:
    resources = launch.resources(capability)
    print(f"{request.node.name}: {resources}")  # with pytest -s, the table of resources
    check_resources(launch.kernel.__name__, resources, capability)
    assert resources.registers_per_thread > 0


def test_sm_90_whatever_the_plan_launches_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant that a slot on an H200 would compile, split or aligned as its sizes make it: no surprise
    is left for the machine with the GPU."""
    builds = [
        launch for kernel in KERNELS.values() for some in kernel.builds((9, 0)).values() for launch in some
    ]
    built = {tiling(one) for one in builds}
    launched, planned = recorded(monkeypatch, (9, 0), 132), {}
    for point in all_points():
        if point.provider == "triton" and point.kernel in KERNELS:
            inputs = KERNELS[point.kernel].inputs(dict(point.size), point.dtype, "meta")
            KERNELS[point.kernel].launch(**inputs)
            planned |= {tiling(one): one for one in launched}
            launched.clear()
    assert len(planned) > 60
    for name, launch in planned.items():
        if name not in built:
            check_resources(launch.kernel.__name__, launch.resources((9, 0)), (9, 0))


def tiling(launch: Launch) -> tuple[Any, ...]:
    """Variants whose SRAM and registers can differ: by tiles and types, not by which lengths are aligned."""
    types = tuple(value.dtype for _, value in sorted(launch.arguments.items()) if hasattr(value, "dtype"))
    tiles = tuple(sorted(launch.tiles.constants.items())), launch.tiles.num_warps, launch.tiles.num_stages
    return launch.kernel.__name__, types, tiles


def square(tiles: Tiles) -> Launch:
    a, b, c = (meta("bfloat16", 4096, 4096) for _ in range(3))
    return matmul.launches(a, b.t(), c, tiles=tiles)[0]


def test_sm_80_a_tile_beyond_its_sram_is_refused() -> None:
    """3 stages of (128 + 256) x 64 values fit an SM of Hopper, 6 stages fit neither."""
    tiles = matmul.tiles_for((9, 0), 4096, 2)
    deep = Tiles(constants=tiles.constants, num_warps=8, num_stages=6)
    with pytest.raises(LaunchError, match=r"bytes of SRAM a block; sm_80 allows 166,912"):
        check_resources("matmul", square(deep).resources((8, 0)), (8, 0))


def test_sm_80_a_spill_is_seen() -> None:
    """128 x 256 accumulators on 4 warps are 256 a thread: they cannot all be registers."""
    tiles = matmul.tiles_for((9, 0), 4096, 2)
    with pytest.raises(LaunchError, match="registers spill"):
        few = Tiles(constants=tiles.constants, num_warps=4, num_stages=2)
        check_resources("matmul", square(few).resources((8, 0)), (8, 0))
