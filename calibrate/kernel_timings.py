"""Measured kernels by device and operator, as the laws' sizes; and which rows the checks look at.

``group`` is what cross-validation holds out as a whole: all m of an (n, k) pair, all rows of a head
configuration, a band of message sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from calibrate.timings import AIC, RTX_4090, RTX_4090_GEMMS
from sim.hardware import load_hardware
from sim.hardware.laws.device import Device, Floats
from sim.hardware.laws.registry import OPERATORS
from sim.price.law_times import device_of

Rows = npt.NDArray[np.bool_]
AIC_GPUS = {
    "a100-sxm-80gb": "a100_sxm", "h100-sxm-80gb": "h100_sxm", "h200-sxm-141gb": "h200_sxm",
    "b200-sxm-180gb": "b200_sxm", "l40s": "l40s",
}  # fmt: skip
NVLINK = ("a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb")
COPIES = 6.0  # AIConfigurator rotates over six copies of the weights
NEVER_HOT = 1e9  # copies, where a whole model passes between two uses of a matrix
SMALLEST_GEMM = 2.0**24  # m · n · k of the check; below it little but the start-up shows
SHORTEST_ATTENTION_S = 20e-6
LARGEST_CUSTOM_BYTES = 8 * 2**20
BAND_OCTAVES = 3
QUANTIZED = {  # operator: (table's dtype, bits of a weight, bytes of an activation)
    "gemm_float8": ("fp8", 8.0, 1.0),
    "gemm_int8": ("sq", 8.0, 1.0),
    "gemm_int8_weights": ("int8_wo", 8.0, 2.0),
    "gemm_int4_weights": ("int4_wo", 4.0, 2.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTimings:
    """One operator on one device; ``variant`` is a library's version where several were measured."""

    profile: str
    operator: str
    device: Device
    sizes: Mapping[str, Floats]
    measured_s: Floats
    group: Floats
    is_checked: Rows
    what: str
    variant: str = ""

    def where(self, keep: Rows) -> KernelTimings:
        """Those rows only."""
        return KernelTimings(
            profile=self.profile,
            operator=self.operator,
            device=self.device,
            sizes={name: one[keep] for name, one in self.sizes.items()},
            measured_s=self.measured_s[keep],
            group=self.group[keep],
            is_checked=self.is_checked[keep],
            what=self.what,
            variant=self.variant,
        )


def gemms(folder: Path, profile: str) -> Iterator[KernelTimings]:
    """bfloat16, then every quantized kind that the tables have for this GPU."""
    table = read_aic(folder, "gemm_bf16", profile)
    yield gemm("gemm_bfloat16", profile, table, (16.0, 2.0))
    quantized = read_aic(folder, "gemm_quant", profile)
    for operator, (dtype, bits, value_bytes) in QUANTIZED.items():
        rows = quantized[quantized["dtype"].astype(str) == dtype]
        if len(rows) and (operator != "gemm_int8" or "int8" in load_hardware(profile).peak_flops_per_s):
            yield gemm(operator, profile, rows, (bits, value_bytes))


def gemm(operator: str, profile: str, rows: pd.DataFrame, widths: tuple[float, float]) -> KernelTimings:
    """GEMMs of at least 2^24 multiply-adds."""
    m, n, k = column(rows, "m"), column(rows, "n"), column(rows, "k")
    sizes = {"m": m, "n": n, "k": k, "copies": np.full(len(rows), COPIES)}
    sizes |= {"weight_bits": np.full(len(rows), widths[0]), "value_bytes": np.full(len(rows), widths[1])}
    found = timings_of(
        operator, profile, sizes, seconds(rows), group=number_groups(n, k), what=source_of(rows)
    )
    return found.where(m * n * k >= SMALLEST_GEMM)


def prefill(folder: Path, profile: str, kv_dtype: str, suffix: str) -> KernelTimings:
    """Causal attention of whole prompts, full window."""
    rows = full_window(read_aic(folder, "attention_context", profile), kv_dtype)
    sizes = head_sizes(rows, kv_dtype) | {
        "queries": column(rows, "q_len"),
        "cached": column(rows, "prefix_len"),
    }
    found = timings_of(
        f"attention_prefill{suffix}",
        profile,
        sizes,
        seconds(rows),
        group=head_groups(sizes),
        what=source_of(rows),
    )
    return found.where(found.measured_s >= SHORTEST_ATTENTION_S / 2) if len(rows) else found


def decode(folder: Path, profile: str, kv_dtype: str, suffix: str) -> KernelTimings:
    """One query per sequence, full window; the check is on a KV larger than L2."""
    rows = full_window(read_aic(folder, "attention_generation", profile), kv_dtype)
    sizes = head_sizes(rows, kv_dtype) | {"context": column(rows, "kv_len"), "copies": np.ones(len(rows))}
    found = timings_of(
        f"attention_decode{suffix}",
        profile,
        sizes,
        seconds(rows),
        group=head_groups(sizes),
        what=source_of(rows),
    )
    kv = (
        2.0
        * sizes["sequences"]
        * sizes["context"]
        * sizes["kv_heads"]
        * sizes["head_dim"]
        * sizes["kv_bytes"]
    )
    found.is_checked[:] = (kv > found.device.l2_bytes) & (found.measured_s >= SHORTEST_ATTENTION_S)
    return found.where(kv > found.device.l2_bytes / 16.0)


def head_sizes(rows: pd.DataFrame, kv_dtype: str) -> dict[str, Floats]:
    """The sizes that prefill and decode share."""
    names = {
        "sequences": "batch_size",
        "heads": "num_heads",
        "kv_heads": "num_kv_heads",
        "head_dim": "head_dim",
    }
    sizes = {name: column(rows, theirs) for name, theirs in names.items()}
    return sizes | {"kv_bytes": np.full(len(rows), 1.0 if kv_dtype == "fp8" else 2.0)}


def all_reduces(folder: Path, profile: str) -> Iterator[KernelTimings]:
    """NCCL by version, oldest first, and vLLM's custom all-reduce inside CUDA graphs."""
    nccl = read_aic(folder, "nccl", profile, framework="")
    nccl = nccl[(nccl["op"].astype(str) == "all_reduce") & (nccl["dtype"].astype(str) == "half")]
    for version in sorted(set(nccl["nccl_version"].astype(str)), key=by_version):
        rows = nccl[nccl["nccl_version"].astype(str) == version]
        yield all_reduce("all_reduce_nccl", profile, rows, f"NCCL {version}")
    custom = read_aic(folder, "custom_allreduce", profile)
    custom = custom[custom["kernel_source"].astype(str) == "vLLM_custom_graph"]
    newest = max(set(custom["version"].astype(str)), key=by_version)
    custom = custom[(custom["version"].astype(str) == newest)]
    custom = custom[custom["message_bytes"] <= LARGEST_CUSTOM_BYTES]
    yield all_reduce("all_reduce_custom", profile, custom, f"vLLM {newest}, CUDA graph")


def by_version(text: str) -> tuple[int, ...]:
    """2.23 before 2.27.3."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def all_reduce(operator: str, profile: str, rows: pd.DataFrame, variant: str) -> KernelTimings:
    """Rows of one library version; bands of three octaves of the message."""
    message = column(rows, "message_bytes")
    found = timings_of(
        operator,
        profile,
        {"gpus": column(rows, "num_gpus"), "bytes": message},
        seconds(rows),
        group=np.floor(np.log2(message) / BAND_OCTAVES),
        what=f"{AIC}, {variant}",
    )
    return KernelTimings(
        **{name: getattr(found, name) for name in KernelTimings.__dataclass_fields__ if name != "variant"},
        variant=variant,
    )


def rtx_4090(folder: Path) -> Iterator[KernelTimings]:
    """The kernels of one Llama-3.1-8B layer, as vLLM ran them."""
    tables = folder / "serving/rtx4090_llama-3.1-8b/profile/tp1"
    dense = pd.read_csv(tables / "dense.csv").rename(columns={"tokens": "m"})
    head = pd.read_csv(tables / "per_sequence.csv").rename(columns={"sequences": "m"})
    rows = pd.concat([dense[dense["layer"].isin(list(RTX_4090_GEMMS))], head[head["layer"] == "lm_head"]])
    shapes = np.array([RTX_4090_GEMMS.get(layer, (128256, 4096)) for layer in rows["layer"]], dtype=float)
    sizes = {"m": column(rows, "m"), "n": shapes[:, 0], "k": shapes[:, 1]}
    constant = {"copies": NEVER_HOT, "weight_bits": 16.0, "value_bytes": 2.0}
    sizes |= {name: np.full(len(rows), value) for name, value in constant.items()}
    yield timings_of(
        "gemm_bfloat16",
        "rtx-4090",
        sizes,
        seconds(rows),
        group=number_groups(shapes[:, 0], shapes[:, 1]),
        what=RTX_4090,
    )
    attention = pd.read_csv(tables / "attention.csv")
    heads = {"heads": 32.0, "kv_heads": 8.0, "head_dim": 128.0, "kv_bytes": 2.0}
    chunks = attention[(attention["prefill_chunk"] > 0) & (attention["n_decode"] == 0)]
    sizes = {"queries": column(chunks, "prefill_chunk"), "cached": column(chunks, "kv_prefill")}
    sizes |= {name: np.full(len(chunks), value) for name, value in (heads | {"sequences": 1.0}).items()}
    yield timings_of(
        "attention_prefill", "rtx-4090", sizes, seconds(chunks), group=sizes["queries"], what=RTX_4090
    )
    rows = attention[(attention["prefill_chunk"] == 0) & (attention["n_decode"] > 0)]
    sizes = {"sequences": column(rows, "n_decode"), "context": column(rows, "kv_decode")}
    sizes |= {name: np.full(len(rows), value) for name, value in (heads | {"copies": 1.0}).items()}
    yield timings_of(
        "attention_decode", "rtx-4090", sizes, seconds(rows), group=sizes["sequences"], what=RTX_4090
    )


def timings_of(
    operator: str, profile: str, sizes: Mapping[str, Floats], measured_s: Floats, *, group: Floats, what: str
) -> KernelTimings:
    """All rows, those long enough checked."""
    hardware = load_hardware(profile)
    peak = OPERATORS[operator][1] or "bfloat16"
    shortest = SHORTEST_ATTENTION_S if operator.startswith("attention") else 0.0
    return KernelTimings(
        profile=profile,
        operator=operator,
        device=device_of(hardware, peak),
        sizes=sizes,
        measured_s=measured_s,
        group=group,
        is_checked=measured_s >= shortest,
        what=what,
    )


def read_aic(folder: Path, table: str, profile: str, framework: str = "vllm") -> pd.DataFrame:
    """The rows of one GPU; of vLLM's own kernels where a table has those of several frameworks."""
    rows = pd.read_parquet(folder / f"kernels/aic/{table}.parquet")
    rows = rows[rows["gpu"].astype(str) == AIC_GPUS[profile]]
    if framework and table != "gemm_quant":
        rows = rows[rows["framework"].astype(str) == framework]
    return rows


def full_window(rows: pd.DataFrame, kv_dtype: str) -> pd.DataFrame:
    """No sliding window, this type of KV."""
    return rows[(rows["window_size"] == 0) & (rows["kv_dtype"].astype(str) == kv_dtype)]


def column(rows: pd.DataFrame, name: str) -> Floats:
    """One column as floats."""
    return rows[name].to_numpy(float)


def seconds(rows: pd.DataFrame) -> Floats:
    """The measured seconds of each row."""
    return column(rows, "latency_us" if "latency_us" in rows else "time_us") * 1e-6


def number_groups(*keys: Floats) -> Floats:
    """A number per distinct combination of keys."""
    _, groups = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    return groups.astype(float).ravel()


def head_groups(sizes: Mapping[str, Floats]) -> Floats:
    """A number per head configuration."""
    return number_groups(sizes["heads"], sizes["kv_heads"], sizes["head_dim"])


def source_of(rows: pd.DataFrame) -> str:
    """Whose kernels, in which version."""
    if not len(rows):
        return AIC
    who = sorted(
        {f"{a} {b}" for a, b in zip(rows["framework"].astype(str), rows["version"].astype(str), strict=True)}
    )
    return f"{AIC}, {', '.join(who)}"
