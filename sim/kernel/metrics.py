"""Statistics of a kernel run: its metrics, its bound, what to be careful with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.kernel.algorithms.problem import Tile
from sim.kernel.gpu import L2_OVER_HBM
from sim.kernel.operations import operation_of, plan_of
from sim.kernel.run import KernelResult, alone, bound_ps, bytes_by_tensor, l2_share
from sim.price.figures import figures_caution, model_caution
from sim.results.metric import Better, Metric, Swept
from sim.results.summary import Summary
from sim.results.verdict import Verdict, Word
from sim.scenario.caution import Caution
from sim.units import format_gb, format_s

if TYPE_CHECKING:
    from sim.results.comparison import Comparison


_ROWS: tuple[tuple[str, str, Better, str], ...] = (
    ("time_s", "s", "lower", "first launch to the last block's end, host copies included"),
    ("achieved_flops_per_s", "FLOP/s", "higher", "useful FLOPs / time_s; causal attention counts half"),
    ("peak_fraction", "fraction", "higher", "achieved_flops_per_s / the dtype's dense peak"),
    ("hbm_bytes", "bytes", "lower", "what kernels load from and store to device memory, also what L2 serves"),
    ("hbm_read_bytes", "bytes", "lower", "of these, loaded"),
    ("hbm_write_bytes", "bytes", "lower", "of these, stored"),
    ("hbm_after_l2_bytes", "bytes", "lower", "of all tile loads and stores, what L2 does not serve"),
    ("achieved_hbm_bytes_per_s", "bytes/s", "higher", "hbm_after_l2_bytes / time_s"),
    ("sram_peak_bytes", "bytes", "neither", "most SRAM in use on an SM"),
    ("extra_memory_bytes", "bytes", "lower", "peak of temporaries: neither input nor output"),
    ("memory_bytes", "bytes", "lower", "inputs, outputs and temporaries together"),
    ("num_launches", "launches", "lower", "kernels one after another"),
    ("num_blocks", "blocks", "neither", "thread blocks of all launches"),
    ("blocks_per_sm", "blocks", "neither", "resident blocks per SM, of the longest launch"),
    ("occupancy_fraction", "fraction", "neither", "its resident warps / the SM's most"),
    ("waves", "waves", "neither", "its blocks / (SMs x resident blocks)"),
    ("idle_fraction", "fraction", "lower", "block slots of the SMs without a block: tails and small grids"),
    ("compute_bound_fraction", "fraction", "neither", "block-time held back by compute"),
    ("memory_bound_fraction", "fraction", "neither", "block-time held back by HBM or L2"),
    ("latency_bound_fraction", "fraction", "neither", "block-time held back by memory latency"),
    ("launch_s", "s", "lower", "time between kernels"),
    ("host_copy_s", "s", "lower", "time on the host link"),
)
KERNEL_METRICS: Mapping[str, Metric] = {
    name: Metric(name=name, unit=unit, meaning=meaning, better=better)
    for name, unit, better, meaning in _ROWS
}
KERNEL_TABLE = (
    "achieved_flops_per_s",
    "peak_fraction",
    "hbm_bytes",
    "hbm_after_l2_bytes",
    "extra_memory_bytes",
    "sram_peak_bytes",
    "occupancy_fraction",
    "waves",
    "idle_fraction",
    "compute_bound_fraction",
    "memory_bound_fraction",
    "num_launches",
    "host_copy_s",
)


SWEPT = Swept(
    columns=("time_s", *KERNEL_TABLE),
    goals=("time_s",),
    against=("time_s",),
    load_keys=(
        "seeds",
        "model",
        "kernel.attention",
        "kernel.gemm",
        "kernel.norm",
        "kernel.copy",
        "kernel.training_step",
    ),
    choice_keys=(
        "kernel.attention.algorithm",
        "kernel.attention.dtype",
        "kernel.attention.layout",
        "kernel.attention.mask",
        "kernel.attention.dropout",
        "kernel.attention.page_tokens",
        "kernel.attention.num_kv_heads",
        "kernel.gemm.dtype",
        "kernel.gemm.weight_bits",
        "kernel.norm.dtype",
        "kernel.norm.is_fused",
        "kernel.training_step.attention",
        "kernel.training_step.kernels",
        "kernel.training_step.micro_batch_size",
        "kernel.training_step.gradient_accumulation_steps",
    ),
    compares_alike=True,
)
"""How a sweep is read: the shape is what is asked for, how it is computed the choice."""


_L2_ASSUMED = f"{L2_OVER_HBM} x HBM"
_MOSTLY = 0.5
_WORTH_A_WORD = 0.05  # of the whole


KERNEL_DECIDERS = (("hbm_after_l2_bytes",), ("time_s",), ("peak_fraction",), ("extra_memory_bytes",))
"""What decides beside the headline: of each group the first that has a number."""


def kernel_headline(comparison: Comparison) -> str:
    """The metric that answers a kernel question: its time, unless the scenario asks for another."""
    return comparison.summaries[comparison.reference][0].headline or "time_s"


def summarize_kernel(result: KernelResult, *, keep_thin_percentiles: bool = False) -> Summary:
    """The statistics of one run; a run that does not fit the memory has its bytes and no time."""
    del keep_thin_percentiles  # one kernel, no percentiles
    metrics = {name: None for name in KERNEL_METRICS} | _metrics(result)
    reason = _out_of_memory(result) if result.is_out_of_memory else "nothing of the kind happened"
    work = result.scenario.kernel
    return Summary(
        question=result.scenario.question,
        variant=result.variant,
        seed=result.seed,
        hardware=result.scenario.hardware.name,
        model=operation(result),
        allocator="",
        arrivals="",
        metrics=metrics,
        refused={name: reason for name, value in metrics.items() if value is None},
        meets_slo=None,
        verdict=_verdict(result),
        warnings=_cautions(result),
        by_class={},
        whole_run={},
        window_s=(0.0, result.time_ps * 1e-12),
        notes=result.notes,
        kind="kernel",
        headline=result.scenario.answer_by,
        work=work.attention.algorithm if work.attention else "",
    )


def _cautions(result: KernelResult) -> tuple[Caution, ...]:
    """What the launches took that was not measured here; a copy over the host link takes nothing."""
    plan = result.plan
    figures = figures_caution(plan.gpu.profile, plan.used) if plan.launches else None
    found = (figures, model_caution(result.scenario.model), _l2_caution(result), _tile_caution(result))
    return tuple(one for one in found if one is not None)


def _assumes_l2(result: KernelResult) -> bool:
    return result.plan.gpu.profile.l2_bytes_per_s is None


def _l2_caution(result: KernelResult) -> Caution | None:
    """Where L2's rate is assumed and holds the kernel back, or half of its time is loads that add to it."""
    if not result.records or not _assumes_l2(result):
        return None
    adds = any(launch.is_limited_by_l2 and not launch.loads_ahead for launch in result.plan.launches)
    is_much = alone(result.plan).l2_s >= _MOSTLY * result.kernel_ps * 1e-12
    if bound_of(result) != "L2" and not (adds and is_much):
        return None
    name = result.plan.gpu.profile.name
    return Caution(
        kind="l2_rate_assumed",
        observation=f"L2 moves most bytes, and its rate on {name} is assumed ({_L2_ASSUMED})",
        meaning="measured devices have 2 to 6 times (H200 2, A100 2.7, L40S 6); times and which tile is best "
        "may hang on it",
        remedy="state a measured rate: hardware: {base: ..., l2_bytes_per_s: ...}",
        assumes=f"the L2 rate of {name} is {_L2_ASSUMED} bandwidth",
    )


def _tile_caution(result: KernelResult) -> Caution | None:
    """For an attention with another tile than its kernel's own, with which the efficiencies were fitted."""
    work, plan = result.scenario.kernel, result.plan
    if work.attention is None or work.tile == Tile():
        return None
    used = [launch.tile for launch in plan.launches if launch.tile]
    own = plan_of(result.scenario.hardware, replace(work, tile=Tile())).launches
    tiles = [launch.tile for launch in own if launch.tile]
    if used == tiles:
        return None
    own_tiles = " and ".join(dict.fromkeys(tiles))
    return Caution(
        kind="tile_not_fitted",
        observation=f"another tile than {work.attention.algorithm}'s own ({own_tiles})",
        meaning="its efficiencies were fitted with that one; how often warps read K and V from SRAM and "
        "wait for each other is not priced (8 warps of FlashAttention 2 measured 18 to 28 % slower than 4)",
        remedy="time a tile that looks a third faster or less before you choose it",
    )


def operation(result: KernelResult) -> str:
    """What ran, in a few words."""
    scenario = result.scenario
    return operation_of(scenario.kernel).words(scenario.kernel, scenario.model)


def _out_of_memory(result: KernelResult) -> str:
    needed, there = format_gb(result.memory_bytes), format_gb(result.plan.gpu.profile.hbm_bytes)
    return f"out of memory: needs {needed}, the device has {there}"


def bound_of(result: KernelResult) -> str:
    """What held a kernel that ran back: compute, memory (HBM), L2, latency, launches or the host link."""
    shares = bound_ps(result)
    whole = sum(shares.values())
    if not shares or result.host_copy_ps > whole:
        return "the host link"
    launched = result.kernel_ps - sum(record.end_ps - record.start_ps for record in result.records)
    if launched > whole:
        return "launches"
    most = max(shares, key=lambda name: shares[name])
    return "L2" if most == "memory" and l2_share(result) > _MOSTLY else most


def _verdict(result: KernelResult) -> Verdict:
    """What held the kernel back, and how long its compute and its bytes would take by themselves."""
    if result.is_out_of_memory:
        return Verdict(word="OUT_OF_MEMORY", reason=_out_of_memory(result))
    bound, shares = bound_of(result), bound_ps(result)
    if bound == "the host link":
        longer = "takes longer than the kernel" if shares else "carries it"
        return Verdict(word="LINK_BOUND", reason=f"the host link {longer}")
    if bound == "launches":
        return Verdict(word="LAUNCH_BOUND", reason="launches take longer than the kernels themselves")
    share = shares["memory" if bound == "L2" else bound] / max(1, sum(shares.values()))
    rate = f" (its rate is assumed: {_L2_ASSUMED})" if bound == "L2" and _assumes_l2(result) else ""
    return Verdict(
        word=_BOUND_WORDS[bound],
        reason=f"{share:.0%} of block-time waits for {bound}{rate}; {_parts(result, bound)}",
    )


def _parts(result: KernelResult, bound: str) -> str:
    """How long the run would take with only one thing to do, and what the rest of its time is."""
    roofs, time_s = alone(result.plan), result.time_ps * 1e-12
    computing = format_s(roofs.compute_s)
    if roofs.vector_s > _WORTH_A_WORD * roofs.compute_s:
        computing += f" ({format_s(roofs.vector_s)} of it softmax or other vector work that nothing hides)"
    moving = format_s(roofs.memory_s)
    if bound == "L2":
        behind = sum(launch.from_hbm_bytes for launch in result.plan.launches)
        moving += f" ({format_s(roofs.l2_s)} of it through L2; HBM moves {format_gb(behind)})"
    parts = f"of {format_s(time_s)} computing alone would take {computing}, moving the bytes {moving}"
    rest = time_s - max(roofs.compute_s, roofs.memory_s)
    if rest <= _WORTH_A_WORD * time_s:
        return parts
    hides = "loads" if roofs.compute_s > roofs.memory_s else "computing"
    waits = f"{hides} and latency that nothing hides, SMs without a block, launches"
    return f"{parts}; the other {format_s(rest)} are {waits}"


_BOUND_WORDS: Mapping[str, Word] = {
    "compute": "COMPUTE_BOUND",
    "memory": "MEMORY_BOUND",
    "L2": "L2_BOUND",
    "latency": "LATENCY_BOUND",
}


def _metrics(result: KernelResult) -> dict[str, float | None]:
    launches, profile = result.plan.launches, result.plan.gpu.profile
    moved = bytes_by_tensor(result)
    read, written = (sum(pair[side] for pair in moved.values()) for side in (0, 1))
    found: dict[str, float | None] = {
        "hbm_bytes": read + written,
        "hbm_read_bytes": read,
        "hbm_write_bytes": written,
        "hbm_after_l2_bytes": sum(launch.from_hbm_bytes for launch in launches),
        "extra_memory_bytes": result.plan.extra_bytes,
        "memory_bytes": result.memory_bytes,
        "num_launches": sum(launch.repeats for launch in launches),
        "num_blocks": sum(launch.num_blocks * launch.repeats for launch in launches),
    }
    if result.is_out_of_memory or not result.time_ps:
        return found
    time_s = result.time_ps * 1e-12
    rate = result.plan.flops / time_s
    found |= {
        "time_s": time_s,
        "achieved_flops_per_s": rate or None,
        "peak_fraction": rate / profile.peak_flops_per_s[result.plan.dtype] or None,
        "achieved_hbm_bytes_per_s": (found["hbm_after_l2_bytes"] or 0.0) / time_s,
        "host_copy_s": result.host_copy_ps * 1e-12,
    }
    return found | (_device_metrics(result) if result.records else {})


def _device_metrics(result: KernelResult) -> dict[str, float | None]:
    """What the SMs did."""
    gpu, pairs = result.plan.gpu, list(zip(result.plan.launches, result.records, strict=True))
    longest, _ = max(pairs, key=lambda pair: pair[1].end_ps - pair[1].start_ps)
    slots = longest.blocks_per_sm * gpu.sm_count
    shares = bound_ps(result)
    total = max(1, sum(shares.values()))
    busy = sum(one.end_ps - one.start_ps for one in result.records)
    offered = sum((one.end_ps - one.start_ps) * launch.blocks_per_sm * gpu.sm_count for launch, one in pairs)
    return {
        "sram_peak_bytes": max(
            launch.sram_bytes_per_block * -(-max(count for _, count in one.resident) // gpu.sm_count)
            for launch, one in pairs
        ),
        "blocks_per_sm": longest.blocks_per_sm,
        "occupancy_fraction": longest.blocks_per_sm * longest.warps_per_block / gpu.max_warps,
        "waves": longest.num_blocks / slots,
        "idle_fraction": 1.0 - sum(one.block_ps for one in result.records) / max(1, offered),
        "launch_s": (result.kernel_ps - busy) * 1e-12,
        **{f"{bound}_bound_fraction": spent / total for bound, spent in shares.items()},
    }
