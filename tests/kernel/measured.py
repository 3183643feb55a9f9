"""Published timings of attention kernels, read from the shared folder, and the simulator's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.hardware import load_hardware
from sim.kernel.run import run_kernel
from sim.kernel.scenario import Attention, KernelScenario, KernelWork

DEVICES = {"A100-SXM4-80GB": "a100-sxm-80gb", "H100-SXM5-80GB": "h100-sxm-80gb"}
ALGORITHMS = {
    "PyTorch": "standard",
    "FlashAttention1": "flash_attention_1",
    "FlashAttention2": "flash_attention_2",
    "FlashAttention3": "flash_attention_3",
}
# What vLLM runs for causal prefill on each device: its kernel source in the timings.
PAGED = {
    "a100_sxm": ("a100-sxm-80gb", "flash_attention_2"),
    "h100_sxm": ("h100-sxm-80gb", "flash_attention_3"),
    "h200_sxm": ("h200-sxm-141gb", "flash_attention_3"),
    "l40s": ("l40s", "flash_attention_2"),
    "b200_sxm": ("b200-sxm-180gb", "flash_trtllm"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bar of a published figure; ``tflops`` is None where it ran out of memory."""

    device: str
    algorithm: Any
    direction: Any
    causal: bool
    head_dim: int
    seqlen: int
    batch: int
    heads: int
    tflops: float | None

    @property
    def group(self) -> tuple[object, ...]:
        """Everything but the algorithm."""
        return (self.device, self.direction, self.causal, self.head_dim, self.seqlen)


def published(shared: Path) -> Iterator[Row]:
    """The figures of FlashAttention-2 (forward and backward) and -3 (forward), head sizes 64 and 128."""
    import pandas as pd

    table = pd.read_csv(shared / "measured/kernels/attention.csv")
    chosen = table[table.gpu.isin(DEVICES) & table.impl.isin(ALGORITHMS) & table.headdim.isin([64, 128])]
    for row in chosen.itertuples():
        yield Row(
            device=DEVICES[row.gpu],
            algorithm=ALGORITHMS[row.impl],
            direction={"fwd": "forward", "fwd+bwd": "forward_backward"}[row[3]],
            causal=bool(int(row.causal)),
            head_dim=int(row.headdim),
            seqlen=int(row.seqlen),
            batch=int(row.batch),
            heads=int(row.heads),
            tflops=None if row.value == "OOM" else float(row.value),
        )


def ran_on_40_gb(shared: Path) -> Iterator[tuple[Attention, bool]]:
    """FlashAttention's appendix E.6 (A100 of 40 GB, batch 16, 8 heads of 64): asked, and whether it ran."""
    import pandas as pd

    table = pd.read_csv(shared / "measured/kernels/attention.csv")
    names = {name: ALGORITHMS[name] for name in ("PyTorch", "FlashAttention1")}
    chosen = table[table.gpu.str.startswith("A100-SXM4-40GB") & table.impl.isin(names)]
    directions: dict[str, Any] = {"fwd": "forward", "bwd": "backward", "fwd+bwd": "forward_backward"}
    for row in chosen.itertuples():
        extras = row.notes.startswith("dropout+mask")
        algorithm: Any = names[row.impl]
        attention = Attention(
            algorithm=algorithm,
            batch=int(row.batch),
            num_heads=int(row.heads),
            head_dim=int(row.headdim),
            seqlen=int(row.seqlen),
            dtype="float16",
            direction=directions[row[3].removeprefix("memory ")],
            mask=extras and algorithm == "standard",
            dropout=extras and algorithm == "standard",
        )
        yield attention, row.value != "OOM"


def simulate(device: str, attention: Attention) -> Any:
    """The run of one attention."""
    work = KernelWork(attention=attention)
    scenario = KernelScenario(
        schema_version=1, question="how fast?", kind="kernel", hardware=load_hardware(device), kernel=work
    )
    return run_kernel(scenario)


def run_row(row: Row) -> Any:
    """The simulator's run of a published row."""
    return simulate(
        row.device,
        Attention(
            algorithm=row.algorithm,
            batch=row.batch,
            num_heads=row.heads,
            head_dim=row.head_dim,
            seqlen=row.seqlen,
            causal=row.causal,
            dtype="float16",
            direction=row.direction,
        ),
    )


def tflops(run: Any) -> float:
    """Useful TFLOP/s of a run."""
    return float(run.plan.flops / run.time_ps)


def prefill_sample(shared: Path, gpu: str, count: int) -> Any:
    """Rows of causal prefill (bfloat16 KV, full window), stratified by length, heads and batch."""
    import pandas as pd

    table = pd.read_parquet(shared / "measured/kernels/aic/attention_context.parquet")
    chosen = table[(table.gpu == gpu) & (table.kv_dtype == "bfloat16") & (table.window_size == 0)]
    chosen = chosen[chosen.head_dim.isin([64, 128, 192, 256])]
    names = ["batch_size", "q_len", "num_heads", "num_kv_heads", "head_dim"]
    chosen = chosen.astype(dict.fromkeys(names, "int64"))
    strata = [np.log2(chosen[name]).astype("int64") // 2 for name in ("q_len", "num_heads", "batch_size")]
    groups = [group for _, group in chosen.groupby([one.to_numpy() for one in strata])]
    rng = np.random.default_rng(0)
    each = -(-count // len(groups))
    parts = [group.sample(min(len(group), each), random_state=int(rng.integers(1 << 30))) for group in groups]
    return pd.concat(parts).sample(count, random_state=0)
