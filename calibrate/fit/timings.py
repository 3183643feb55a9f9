"""Measured rows as the sizes of the kernel laws.

L2 is overwritten before every run, so no weight is hot: ``copies`` is NEVER_HOT. The CUDA graph's own start,
which is in every row that ran as one, is taken off again (``graph_start_s``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from zlib import crc32

import numpy as np

from calibrate.fit.rows import MeasuredRow, Measurements
from calibrate.kernel_timings import NEVER_HOT, KernelTimings, Rows, head_groups, number_groups
from calibrate.measure.points import size_text
from sim.hardware import HardwareProfile
from sim.hardware.laws.device import Floats
from sim.hardware.laws.registry import OPERATORS
from sim.price.law_times import device_of

HELD_OUT_OF = 5  # every fifth shape is not fitted to
# Who may stand for a kernel. SDPA on keys that are not paged is another kernel; its math back end, unfused.
LIBRARIES = ("torch", "sdpa_flash", "sdpa_cudnn")
PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "triton": ("triton",),
    "library": LIBRARIES,
    "fastest": ("triton", *LIBRARIES),
}
NOT_IN_GRAPHS = ("launch", "host_link", "step")  # a step's graph is started once per step in an engine too
GEMMS = {  # operator: (kernel, dtype, bits of a weight, bytes of an activation)
    "gemm_bfloat16": ("matmul", "bfloat16", 16.0, 2.0),
    "gemm_float8": ("matmul", "float8_e4m3fn", 8.0, 1.0),
    "gemm_int4_weights": ("int4_matmul", "bfloat16", 4.0, 2.0),
}
OWN_OPERATORS = (*GEMMS, "attention_prefill", "attention_decode")
HEADS = {"heads": "H", "kv_heads": "G", "head_dim": "D"}


def graph_start_s(measured: Measurements) -> float:
    """What a CUDA graph takes before its first kernel: a graph of one empty kernel, less that kernel.

    0 where either was not measured.
    """
    by_count = {
        row.size["num_launches"]: row.p50_s for row in measured.of("launch_graph", providers=("triton",))
    }
    if 1 not in by_count or len(by_count) < 2:
        return 0.0
    return max(0.0, by_count[1] - by_count[max(by_count)])


def kernel_s(row: MeasuredRow, start_s: float) -> float:
    """The row's median without the graph's start, of which at most nine tenths of the row can be."""
    is_graph = row.point.family not in NOT_IN_GRAPHS
    return max(row.p50_s - start_s, row.p50_s / 10.0) if is_graph else row.p50_s


def chosen_rows(
    measured: Measurements, kernel: str, *, dtype: str = "bfloat16", choice: str = "fastest"
) -> list[MeasuredRow]:
    """One row per size: the fastest of the providers that ``choice`` names."""
    best: dict[str, MeasuredRow] = {}
    for row in measured.of(kernel, dtype=dtype, providers=PROVIDERS[choice]):
        key = size_text(row.size)
        if key not in best or row.p50_s < best[key].p50_s:
            best[key] = row
    return list(best.values())


def own_timings(measured: Measurements, hardware: HardwareProfile, choice: str) -> Iterator[KernelTimings]:
    """Every operator with a law whose type the device has, in the laws' order; some may have no rows."""
    start_s = graph_start_s(measured)
    for operator, (kernel, dtype, bits, value_bytes) in GEMMS.items():
        if not has_peak(hardware, operator):
            continue
        rows = chosen_rows(measured, kernel, dtype=dtype, choice=choice)
        sizes = {name: axis(rows, name.upper()) for name in ("m", "n", "k")}
        constant = {"copies": NEVER_HOT, "weight_bits": bits, "value_bytes": value_bytes}
        sizes |= {name: np.full(len(rows), value) for name, value in constant.items()}
        group = number_groups(sizes["n"], sizes["k"]) if rows else np.zeros(0)
        yield timings(operator, hardware, rows, sizes, start_s=start_s, group=group)
    if not has_peak(hardware, "attention_prefill"):
        return
    rows = [one for one in chosen_rows(measured, "flash_attention", choice=choice) if one.size["is_causal"]]
    sizes = {"sequences": axis(rows, "B"), "queries": axis(rows, "T")}
    sizes |= {"cached": axis(rows, "S") - axis(rows, "T"), **heads_of(rows)}
    yield timings("attention_prefill", hardware, rows, sizes, start_s=start_s, group=groups_of(sizes))
    rows = chosen_rows(measured, "paged_decode_attention", choice="triton")
    sizes = {"sequences": axis(rows, "B"), "context": axis(rows, "context"), **heads_of(rows)}
    sizes["copies"] = np.full(len(rows), NEVER_HOT)
    yield timings("attention_decode", hardware, rows, sizes, start_s=start_s, group=groups_of(sizes))


def has_peak(hardware: HardwareProfile, operator: str) -> bool:
    """Does the device multiply in the operator's type? An A100 has no 8-bit floats, a T4 no bfloat16."""
    return OPERATORS[operator][1] in hardware.peak_flops_per_s


def axis(rows: list[MeasuredRow], name: str) -> Floats:
    """One length of every row."""
    return np.array([row.size[name] for row in rows], dtype=float)


def heads_of(rows: list[MeasuredRow]) -> dict[str, Floats]:
    """Head counts and head size; 16-bit keys and values."""
    return {name: axis(rows, theirs) for name, theirs in HEADS.items()} | {
        "kv_bytes": np.full(len(rows), 2.0)
    }


def groups_of(sizes: Mapping[str, Floats]) -> Floats:
    """A number per head configuration."""
    return head_groups(sizes) if len(sizes["heads"]) else np.zeros(0)


def timings(
    operator: str, hardware: HardwareProfile, rows: list[MeasuredRow], sizes: Mapping[str, Floats], *,
    start_s: float, group: Floats,
) -> KernelTimings:  # fmt: skip
    """Rows of one operator with their times."""
    return KernelTimings(
        profile=hardware.name,
        operator=operator,
        device=device_of(hardware, OPERATORS[operator][1]),
        sizes=sizes,
        measured_s=np.array([kernel_s(row, start_s) for row in rows]),
        group=group,
        is_checked=np.ones(len(rows), dtype=bool),
        what=who_measured(rows),
    )


def who_measured(rows: list[MeasuredRow]) -> str:
    """Device, versions, day, and whose kernels they were."""
    if not rows:
        return "no rows"
    counts = {name: sum(row.point.provider == name for row in rows) for name in PROVIDERS["fastest"]}
    whose = ", ".join(f"{count} by {name}" for name, count in counts.items() if count)
    days = sorted({row.measured_at[:10] for row in rows if row.measured_at})
    when = "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    versions = "; ".join(sorted({row.versions for row in rows}))
    return ", ".join(part for part in (f"python -m calibrate measure on {versions}", when, whose) if part)


def is_held_out(timings: KernelTimings) -> Rows:
    """Every fifth shape, by a checksum of its sizes: the same ones however many rows are there."""
    names = sorted(timings.sizes)
    columns = [timings.sizes[name] for name in names]
    texts = [" ".join(f"{value:g}" for value in values) for values in zip(*columns, strict=True)]
    return np.array([crc32(text.encode()) % HELD_OUT_OF == 0 for text in texts], dtype=bool)
