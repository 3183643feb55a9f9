"""Other people's kernel timings, as sizes, ideal times and measured times of one kind of operator.

Sources: AIConfigurator's tables (``kernels/aic/*.parquet``) and a per-kernel vLLM profile of an RTX 4090.
Rows whose data may have stayed in L2 are left out of the memory-bound timings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from calibrate.curve_law import Floats
from sim.hardware import HardwareProfile
from sim.price.roofline import wave_utilisation

Rows = npt.NDArray[np.bool_]

AIC = "kernel timings of AIConfigurator@095f58a"
RTX_4090 = "Llama-3.1-8B in bfloat16 on an RTX 4090, per-kernel profile of vLLM 0.19"
RTX_4090_GEMMS = {
    "qkv_proj": (6144, 4096),
    "o_proj": (4096, 4096),
    "gate_up_proj": (28672, 4096),
    "down_proj": (4096, 14336),
}
AIC_WEIGHT_COPIES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Per kernel: the size that a curve is read at, the time at a fraction of 1, the measured time."""

    size: Floats
    ideal_s: Floats
    measured_s: Floats
    what: str

    def where(self, keep: Rows, note: str = "") -> Timings:
        """Those rows only."""
        return Timings(
            size=self.size[keep],
            ideal_s=self.ideal_s[keep],
            measured_s=self.measured_s[keep],
            what=self.what + note,
        )


def gemm_timings(
    shapes: tuple[Floats, Floats, Floats], seconds: Floats, hardware: HardwareProfile, copies: int, what: str
) -> dict[str, Timings]:
    """Compute-bound and memory-bound bfloat16 GEMMs (m, n, k) whose weights rotate over ``copies``."""
    m, n, k = shapes
    flops, moved = 2.0 * m * n * k, 2.0 * (m * k + k * n + m * n)
    filled = np.empty_like(m)
    for columns in np.unique(n):
        rows = n == columns
        filled[rows] = wave_utilisation(m[rows], int(columns), hardware.sm_count)
    compute_s = flops / (hardware.peak_flops_per_s["bfloat16"] * filled)
    memory_s = moved / hardware.hbm_bytes_per_s
    compute = Timings(size=flops, ideal_s=compute_s, measured_s=seconds, what=what)
    memory = Timings(size=moved, ideal_s=memory_s, measured_s=seconds, what=what)
    cold = not_from_l2(moved, 2.0 * copies * n * k, hardware)
    is_compute = (compute_s > 2 * memory_s) & (flops > 3e9)
    return {
        "gemm_compute": compute.where(is_compute, ", bound by compute, over tile and wave utilisation"),
        "gemm_memory": memory.where(cold & (memory_s > 2 * compute_s), ", bound by memory"),
    }


def not_from_l2(num_bytes: Floats, footprint: Floats, hardware: HardwareProfile) -> Rows:
    """Rows whose data cannot have stayed in L2, and rows so small that only the start-up shows."""
    tiny: Rows = num_bytes / hardware.hbm_bytes_per_s < 0.3e-6
    return tiny | (footprint > 2.0 * (hardware.l2_bytes or 0))


def prefill_timings(flops: Floats, seconds: Floats, hardware: HardwareProfile, what: str) -> Timings:
    """Causal attention; FLOPs of the causal half."""
    ideal_s = flops / hardware.peak_flops_per_s["bfloat16"]
    return Timings(size=flops, ideal_s=ideal_s, measured_s=seconds, what=what).where(flops > 3e7)


def decode_timings(
    kv: Floats, others: Floats, seconds: Floats, hardware: HardwareProfile, what: str
) -> Timings:
    """One-token attention; ``kv`` and ``others`` (queries and outputs) in bytes."""
    moved = kv + others
    ideal_s = moved / hardware.hbm_bytes_per_s
    timings = Timings(size=moved, ideal_s=ideal_s, measured_s=seconds, what=what)
    return timings.where(not_from_l2(moved, kv, hardware))


def aic_timings(folder: Path, gpu: str, hardware: HardwareProfile) -> dict[str, Timings]:
    """GEMMs, prefill and decode attention of vLLM's kernels, as AIConfigurator timed them."""
    gemm = read_aic(folder, "gemm_bf16", gpu)
    shapes = (column(gemm, "m"), column(gemm, "n"), column(gemm, "k"))
    what = f"bfloat16 GEMMs, {AIC}, {versions(gemm)}"
    timings = gemm_timings(shapes, us(gemm), hardware, AIC_WEIGHT_COPIES, what)
    context = plain_attention(read_aic(folder, "attention_context", gpu))
    context = context[(context["batch_size"] <= 4) & (context["num_heads"] >= 4) & (context["q_len"] >= 16)]
    queries = column(context, "q_len")
    flops = 2.0 * 128 * column(context, "batch_size") * column(context, "num_heads") * queries * (queries + 1)
    what = f"causal prefill of 1 to 4 prompts, FLOPs of the causal half, {AIC}, {versions(context)}"
    timings["attention_prefill_compute"] = prefill_timings(flops, us(context), hardware, what)
    decode = plain_attention(read_aic(folder, "attention_generation", gpu))
    batch = column(decode, "batch_size")
    kv = 4.0 * 128 * batch * column(decode, "kv_len") * column(decode, "num_kv_heads")
    others = 4.0 * 128 * batch * column(decode, "num_heads")
    what = f"one-token attention, {AIC}, {versions(decode)}"
    return timings | {"attention_decode_memory": decode_timings(kv, others, us(decode), hardware, what)}


def aic_all_reduce(folder: Path, gpu: str, hardware: HardwareProfile) -> Timings:
    """All-reduce over 2, 4 and 8 GPUs: the faster of NCCL and vLLM's custom one at each size."""
    nccl = pd.read_parquet(folder / "kernels/aic/nccl.parquet")
    nccl = nccl[(nccl["gpu"] == gpu) & (nccl["op"] == "all_reduce") & (nccl["dtype"] == "half")]
    custom = pd.read_parquet(folder / "kernels/aic/custom_allreduce.parquet")
    custom = custom[(custom["gpu"] == gpu) & (custom["kernel_source"] == "vLLM_custom_graph")]
    both = pd.concat([one[["num_gpus", "message_bytes", "latency_us"]] for one in (nccl, custom)])
    best = both[both["message_bytes"] >= 8192].groupby(["num_gpus", "message_bytes"]).min().reset_index()
    size = 2.0 * (1 - 1 / column(best, "num_gpus")) * column(best, "message_bytes")
    assert hardware.intra_node is not None
    what = (
        "all-reduce over 2, 4 and 8 GPUs, size 2(n - 1)/n of the message, the faster of NCCL and vLLM's "
        f"custom one, {AIC}; its latency is in the curve"
    )
    return Timings(size=size, ideal_s=size / hardware.intra_node.bytes_per_s, measured_s=us(best), what=what)


def rtx_4090_timings(folder: Path, hardware: HardwareProfile) -> dict[str, Timings]:
    """GEMMs and attention of one Llama-3.1-8B layer, as vLLM 0.19 ran it on an RTX 4090."""
    profile = folder / "serving/rtx4090_llama-3.1-8b/profile/tp1"
    dense = pd.read_csv(profile / "dense.csv")
    dense = dense[dense["layer"].isin(list(RTX_4090_GEMMS))]
    head = pd.read_csv(profile / "per_sequence.csv").query("layer == 'lm_head'")
    sizes = [RTX_4090_GEMMS[layer] for layer in dense["layer"]] + [(128256, 4096)] * len(head)
    n, k = (np.array(one, dtype=float) for one in zip(*sizes, strict=True))
    m = np.concatenate([column(dense, "tokens"), column(head, "sequences")])
    seconds = np.concatenate([us(dense), us(head)])
    # A layer's weights pass between two uses of a matrix: 436 MB, six times the L2.
    timings = gemm_timings((m, n, k), seconds, hardware, 100, RTX_4090)
    attention = pd.read_csv(profile / "attention.csv")
    chunks = attention[(attention["prefill_chunk"] >= 64) & (attention["n_decode"] == 0)]
    queries, cached = column(chunks, "prefill_chunk"), column(chunks, "kv_prefill")
    flops = 4.0 * 4096 * (queries * cached + queries * (queries + 1) / 2)
    what = f"prefill chunks of 64 to 2,048 with up to 16,384 tokens before them, {RTX_4090}"
    timings["attention_prefill_compute"] = prefill_timings(flops, us(chunks), hardware, what)
    decode = attention[(attention["prefill_chunk"] == 0) & (attention["n_decode"] > 0)]
    sequences = column(decode, "n_decode")
    timings["attention_decode_memory"] = decode_timings(
        4096.0 * sequences * column(decode, "kv_decode"), 16384.0 * sequences, us(decode), hardware, RTX_4090
    )
    return timings


def read_aic(folder: Path, table: str, gpu: str) -> pd.DataFrame:
    """The rows of vLLM's kernels on one GPU."""
    rows = pd.read_parquet(folder / f"kernels/aic/{table}.parquet")
    return rows[(rows["gpu"] == gpu) & (rows["framework"] == "vllm")]


def plain_attention(rows: pd.DataFrame) -> pd.DataFrame:
    """bfloat16 queries and KV, head_dim 128, no window."""
    plain = (rows["attn_dtype"] == "bfloat16") & (rows["kv_dtype"] == "bfloat16")
    return rows[plain & (rows["head_dim"] == 128) & (rows["window_size"] == 0)]


def column(rows: pd.DataFrame, name: str) -> Floats:
    """One column as floats."""
    return rows[name].to_numpy(float)


def us(rows: pd.DataFrame) -> Floats:
    """The measured seconds of each row."""
    name = "latency_us" if "latency_us" in rows else "time_us"
    return column(rows, name) * 1e-6


def versions(rows: pd.DataFrame) -> str:
    """The framework's versions in these rows."""
    return "vLLM " + ", ".join(sorted({str(version) for version in rows["version"]}))
