"""Which tile: a thread's registers decide as they do in the published kernels, and the answer says so."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from sim.errors import CannotRun, ScenarioError
from sim.hardware import load_hardware
from sim.kernel.algorithms.problem import Copy, Dtype, Gemm, Tile
from sim.kernel.gpu import fits, gpu_of
from sim.kernel.launches import Cost
from sim.kernel.metrics import bound_of, summarize_kernel
from sim.kernel.rates import Running, rates
from sim.kernel.report.pictures import roofline_picture
from sim.kernel.run import KernelResult, alone, run_kernel
from sim.kernel.scenario import Attention, KernelScenario, KernelWork
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.report.figures import lanes
from sim.results.answer import deciding_numbers
from sim.units import format_s

A100, H100 = load_hardware("a100-sxm-80gb"), load_hardware("h100-sxm-80gb")

# (algorithm, device, head size, value type, rows, columns, warps) as the published kernels have them:
# flash_fwd_launch_template.h of FlashAttention 2.7, hopper/tile_size.h of FlashAttention 3 (warps: four that
# load and four for every 64 rows).
PUBLISHED = (
    ("flash_attention_2", "a100-sxm-80gb", 32, "float16", 128, 128, 4),
    ("flash_attention_2", "a100-sxm-80gb", 64, "float16", 128, 128, 4),
    ("flash_attention_2", "a100-sxm-80gb", 64, "float16", 64, 256, 4),
    ("flash_attention_2", "a100-sxm-80gb", 96, "float16", 128, 64, 4),
    ("flash_attention_2", "a100-sxm-80gb", 128, "float16", 128, 64, 4),
    ("flash_attention_2", "a100-sxm-80gb", 128, "float16", 128, 128, 8),
    ("flash_attention_2", "a100-sxm-80gb", 160, "float16", 128, 32, 4),
    ("flash_attention_2", "a100-sxm-80gb", 192, "float16", 128, 64, 8),
    ("flash_attention_2", "a100-sxm-80gb", 256, "float16", 128, 64, 8),
    ("flash_attention_3", "h100-sxm-80gb", 64, "float16", 192, 128, 16),
    ("flash_attention_3", "h100-sxm-80gb", 64, "float16", 192, 192, 16),
    ("flash_attention_3", "h100-sxm-80gb", 96, "float16", 192, 144, 16),
    ("flash_attention_3", "h100-sxm-80gb", 128, "float16", 128, 176, 12),
    ("flash_attention_3", "h100-sxm-80gb", 192, "float16", 128, 112, 12),
    ("flash_attention_3", "h100-sxm-80gb", 256, "float16", 128, 80, 12),
    ("flash_attention_3", "h100-sxm-80gb", 128, "float8", 128, 224, 12),
    ("flash_attention_3", "h100-sxm-80gb", 64, "float8", 192, 160, 16),
    ("flash_attention_3", "h100-sxm-80gb", 256, "float8", 128, 128, 12),
)


def ran(device: str, attention: Attention, tile: Tile) -> KernelResult:
    hardware = load_hardware(device)
    return run_kernel(
        KernelScenario(
            schema_version=1,
            question="?",
            kind="kernel",
            hardware=hardware,
            kernel=KernelWork(attention=attention, tile=tile),
        )
    )


def attention(algorithm: str, head_dim: int, dtype: Dtype = "float16") -> Attention:
    """As FlashAttention 2's figures have it: 16k tokens, a hidden size of 2,048."""
    return Attention(
        algorithm=algorithm,
        batch=8,
        num_heads=max(1, 2048 // head_dim),
        head_dim=head_dim,
        seqlen=2048,
        dtype=dtype,
    )


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: "-".join(map(str, case[:1] + case[2:])))
def test_every_published_tile_can_be_held(case: tuple[str, str, int, Dtype, int, int, int]) -> None:
    algorithm, device, head_dim, dtype, rows, columns, warps = case
    tile = Tile(block_m=rows, block_n=columns, num_warps=warps)
    assert ran(device, attention(algorithm, head_dim, dtype), tile).time_ps > 0


@pytest.mark.parametrize(("head_dim", "rows", "columns"), [(64, 256, 64), (32, 256, 128)])
def test_the_tiles_that_flash_attentions_authors_saw_spill_are_refused(
    head_dim: int, rows: int, columns: int
) -> None:
    """85 % slower "because of register spilling", "very slow due to register spilling"."""
    with pytest.raises(ScenarioError, match="they would spill to memory") as caught:
        ran(
            "a100-sxm-80gb",
            attention("flash_attention_2", head_dim),
            Tile(block_m=rows, block_n=columns, num_warps=4),
        )
    assert "at most 255" in str(caught.value)


@pytest.mark.parametrize(("head_dim", "rows", "columns"), [(64, 128, 128), (128, 128, 64)])
def test_the_fastest_tile_is_the_published_kernels_own(head_dim: int, rows: int, columns: int) -> None:
    """Among tiles of powers of two with the four warps of FlashAttention 2, on A100."""
    times = {}
    for tile in product((64, 128, 256), (32, 64, 128, 256)):
        given = Tile(block_m=tile[0], block_n=tile[1])
        try:
            times[tile] = ran("a100-sxm-80gb", attention("flash_attention_2", head_dim), given).time_ps
        except ScenarioError:
            continue
    assert min(times, key=lambda tile: times[tile]) == (rows, columns)


def test_a_kernel_whose_warps_only_load_has_nothing_to_compute_with() -> None:
    with pytest.raises(ScenarioError, match="none is left to compute") as caught:
        ran("h100-sxm-80gb", attention("flash_attention_3", 128), Tile(num_warps=4))
    assert caught.value.path == "kernel.tile.num_warps"


def test_a_larger_sram_gives_flash_attention_1_more_warps_not_a_spilling_tile() -> None:
    found = run_scenario(load_scenario("kernel/sram_size"))
    result = found.results["1_MB"][0]
    assert result.plan.launches[0].tile == "64 x 2048, 32 warps"
    assert found.results["192_KB"][0].plan.launches[0].tile == "64 x 384, 8 warps"


def test_another_tile_than_the_kernels_own_is_warned_about_and_its_own_is_not() -> None:
    one = attention("flash_attention_2", 128)

    def kinds(tile: Tile) -> list[str]:
        return [caution.kind for caution in summarize_kernel(ran("a100-sxm-80gb", one, tile)).warnings]

    assert "tile_not_fitted" in kinds(Tile(block_m=128, block_n=128, num_warps=8))
    assert kinds(Tile()) == kinds(Tile(block_m=128, block_n=64)) == []


def test_blocks_on_a_full_memory_system_wait_for_memory_however_long_they_compute() -> None:
    """With one stage a block loads, then computes: once HBM is full, faster tensor cores change nothing."""

    def found(tensor_s: float, count: int) -> tuple[str, float]:
        cost = Cost(tensor_s=tensor_s, memory_s=1e-8, num_stages=1)
        rate = rates([(Running(cost, 1), count)], 1.0)[0]
        return rate.bound, float(rate.units_per_ps)

    slow, fast = found(1e-6, 200), found(0.5e-6, 200)
    assert slow[0] == fast[0] == "memory"
    assert fast[1] == pytest.approx(slow[1], rel=1e-3)
    assert found(1e-6, 50)[0] == "compute"


@pytest.mark.parametrize(
    "name", ["block_size", "standard_vs_flash", "hbm3e", "int4_gemm", "wave_quantisation"]
)
def test_verdict_and_roofline_speak_of_the_same_roof(name: str) -> None:
    """What holds a kernel back is the roof that it is closer to, and the picture names that one first."""
    found = run_scenario(load_scenario(f"kernel/{name}"))
    picture = roofline_picture(found.results, lanes(found.comparison.variants))
    assert picture is not None
    for variant, (result,) in found.results.items():
        roofs, bound = alone(result.plan), bound_of(result)
        word = found.summaries[variant][0].verdict.word
        if word not in ("COMPUTE_BOUND", "MEMORY_BOUND"):
            continue
        assert word == f"{bound.upper()}_BOUND"
        assert (roofs.compute_s > roofs.memory_s) == (bound == "compute")
        assert max(roofs.compute_s, roofs.memory_s) <= result.time_ps * 1e-12
        said = next(part for part in picture.reading.split("; ") if part.startswith(f"{variant} reaches"))
        assert said.split(" of what ")[1].startswith(f"{bound} allows")


def test_footprints_of_tensor_memory_hold_no_accumulators_in_registers() -> None:
    """Blackwell's accumulators have a memory of their own: a thread's registers do not limit them."""
    from sim.kernel.gpu import Footprint

    one = Footprint(sram_bytes=1, warps=4, accumulator_bytes=200 * 1024, in_tensor_memory=True)
    gpu = gpu_of(load_hardware("b200-sxm-180gb"))
    assert fits(gpu, one)
    assert not fits(gpu, Footprint(sram_bytes=1, warps=4, accumulator_bytes=200 * 1024))


def long_rows(hardware: object, **tile: int) -> KernelResult:
    """FlashAttention 2 over 16k tokens: every tile of queries loads all of K and V, which L2 holds."""
    one = replace(attention("flash_attention_2", 128), seqlen=16384)
    work = KernelWork(attention=one, tile=Tile(**tile))
    device = load_hardware(hardware)
    return run_kernel(
        KernelScenario(schema_version=1, question="?", kind="kernel", hardware=device, kernel=work)
    )


def test_a_kernel_that_waits_for_l2_is_not_said_to_wait_for_hbm_and_an_assumed_rate_is_told() -> None:
    """HBM moves a fiftieth of the bytes; L2's rate on an L4 is nobody's measurement."""
    result = long_rows("l4", block_m=64, block_n=64, num_warps=4)
    found = summarize_kernel(result)
    assert found.verdict.word == "L2_BOUND"
    assert "waits for L2 (its rate is assumed: 2.5 x HBM)" in found.verdict.reason
    assert found.verdict.reason.endswith("of it through L2; HBM moves 2.2 GB)")
    (told,) = [one for one in found.warnings if one.kind == "l2_rate_assumed"]
    assert told.assumes == "the L2 rate of l4 is 2.5 x HBM bandwidth"
    metrics = found.metrics
    assert (metrics["hbm_after_l2_bytes"] or 0) < (metrics["hbm_bytes"] or 0) / 50
    picture = roofline_picture({"base": [result]}, lanes(["base"]))
    assert picture is not None
    assert "100 % of what L2 allows" in picture.reading
    assert "of what memory allows" not in picture.reading
    assert "L2 allows (assumed rate): base" in [trace["name"] for trace in picture.traces]
    quick = long_rows("l4", block_m=128, block_n=64, num_warps=4)
    other = roofline_picture({"base": [quick]}, lanes(["base"]))
    assert other is not None
    assert "of what compute allows and 60 % of what L2 allows" in other.reading
    assert not [trace["name"] for trace in other.traces if trace["name"].startswith("L2 allows")]


def test_a_stated_l2_rate_is_not_assumed_and_a_fast_one_leaves_the_kernel_to_compute() -> None:
    tile = {"block_m": 64, "block_n": 64, "num_warps": 4}
    slow = summarize_kernel(long_rows({"base": "l4", "l2_bytes_per_s": "750 GB/s"}, **tile))
    assert slow.verdict.word == "L2_BOUND"
    assert "assumed" not in slow.verdict.reason
    fast = summarize_kernel(long_rows({"base": "l4", "l2_bytes_per_s": "1.8 TB/s"}, **tile))
    assert fast.verdict.word == "COMPUTE_BOUND"
    assert "l2_rate_assumed" not in [one.kind for one in (*slow.warnings, *fast.warnings)]


def test_a_kernel_that_streams_from_hbm_is_bound_by_memory_and_assumes_nothing_of_l2() -> None:
    copy = KernelWork(copy=Copy(size_bytes=1e9))
    result = run_kernel(
        KernelScenario(
            schema_version=1, question="?", kind="kernel", hardware=load_hardware("l4"), kernel=copy
        )
    )
    found = summarize_kernel(result)
    assert found.verdict.word == "MEMORY_BOUND"
    assert "l2_rate_assumed" not in [one.kind for one in found.warnings]


def test_the_parts_of_a_verdict_add_up_to_the_time() -> None:
    """Computing, of which softmax, then what is left: no third of the time is without a name."""
    result = ran("a100-sxm-80gb", attention("flash_attention_2", 128), Tile())
    roofs, reason = alone(result.plan), summarize_kernel(result).verdict.reason
    rest = result.time_ps * 1e-12 - roofs.compute_s
    assert f"the other {format_s(rest)} are loads and latency that nothing hides" in reason
    assert 0 < roofs.vector_s < roofs.compute_s
    assert f"({format_s(roofs.vector_s)} of it softmax" in reason


def test_the_headline_says_what_hbm_moves() -> None:
    """What L2 serves is no HBM traffic: pasted into a document, the number is taken for the memory's."""
    found = run_scenario(load_scenario("kernel/flash_2_tiles"))
    metrics = [number.metric for number in deciding_numbers(found.comparison)]
    assert "hbm_after_l2_bytes" in metrics
    assert "hbm_bytes" not in metrics


@pytest.mark.parametrize(
    ("device", "algorithm", "tile", "allowed"),
    [
        ("a100-sxm-80gb", "flash_attention_2", Tile(block_m=100), "block_m a multiple of 64"),
        ("a100-sxm-80gb", "flash_attention_2", Tile(block_m=64, num_warps=8), "block_m a multiple of 128"),
        ("a100-sxm-80gb", "flash_attention_2", Tile(block_n=40), "block_n of 16"),
        ("h100-sxm-80gb", "flash_attention_3", Tile(block_m=96), "block_m a multiple of 128"),
        ("h100-sxm-80gb", "flash_attention_3", Tile(block_n=72), "block_n of 16"),
    ],
)
def test_a_tile_that_the_kernels_warps_cannot_be_laid_over_is_refused(
    device: str, algorithm: str, tile: Tile, allowed: str
) -> None:
    with pytest.raises(CannotRun, match="its warps cannot be laid over this tile") as caught:
        ran(device, attention(algorithm, 128), tile)
    assert caught.value.path == "kernel.tile"
    assert allowed in str(caught.value)
    assert "the kernel's own is 128 x" in str(caught.value)


def test_an_fp8_tile_of_keys_is_summed_32_at_a_time() -> None:
    with pytest.raises(CannotRun, match="block_n of 32"):
        ran("h100-sxm-80gb", attention("flash_attention_3", 128, "float8"), Tile(block_n=112))
    assert ran("h100-sxm-80gb", attention("flash_attention_3", 128), Tile(block_n=112)).time_ps > 0


@pytest.mark.parametrize(
    ("device", "algorithm", "head_dim", "tile"),
    [
        ("a100-sxm-80gb", "flash_attention_2", 64, Tile(block_m=128, block_n=128, num_warps=8)),
        ("a100-sxm-80gb", "flash_attention_2", 128, Tile(block_m=64, block_n=128, num_warps=8)),
        ("a100-sxm-80gb", "flash_attention_2", 256, Tile(block_m=64, block_n=64, num_warps=8)),
        ("a100-sxm-80gb", "flash_attention_2", 256, Tile(block_m=32, block_n=64, num_warps=8)),
        ("h100-sxm-80gb", "flash_attention_3", 128, Tile(block_m=80, block_n=128, num_warps=12)),
        ("h100-sxm-80gb", "flash_attention_3", 192, Tile(block_m=64, block_n=96, num_warps=12)),
        ("h100-sxm-80gb", "flash_attention_3", 256, Tile(block_m=64, block_n=80, num_warps=12)),
    ],
)
def test_published_backward_tiles_can_be_laid_out_and_odd_ones_cannot(
    device: str, algorithm: str, head_dim: int, tile: Tile
) -> None:
    """flash_bwd_launch_template.h of both: rows and columns change places there."""
    one = replace(attention(algorithm, head_dim), direction="backward")
    try:
        assert ran(device, one, tile).time_ps > 0
    except CannotRun as refused:
        assert "laid over" not in str(refused)  # SRAM and registers are another matter
    for odd in (replace(tile, block_m=(tile.block_m or 0) + 8), replace(tile, block_n=40)):
        with pytest.raises(CannotRun, match="its warps cannot be laid over this tile"):
            ran(device, one, odd)


def test_float32_knows_no_tensor_core_and_a_products_tile_is_of_eights() -> None:
    plain = Tile(block_m=60, block_n=30, num_warps=8)
    assert ran("a100-sxm-80gb", attention("flash_attention_2", 128, "float32"), plain).time_ps > 0

    def product_with(block_m: int) -> int:
        work = KernelWork(gemm=Gemm(m=512, n=512, k=512), tile=Tile(block_m=block_m, block_n=64))
        one = KernelScenario(schema_version=1, question="?", kind="kernel", hardware=A100, kernel=work)
        return run_kernel(one).time_ps

    assert product_with(24) > 0
    with pytest.raises(CannotRun, match="a multiple of 8") as caught:
        product_with(100)
    assert caught.value.path == "kernel.tile.block_m"
    assert "block_m: 104" in str(caught.value)
