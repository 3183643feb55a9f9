"""Every kernel that was measured on a device, from all tables at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from calibrate.expert_timings import EXPERTS, experts
from calibrate.kernel_timings import (
    AIC_GPUS,
    NVLINK,
    KernelTimings,
    all_reduces,
    decode,
    gemms,
    prefill,
    read_aic,
    rtx_4090,
)


def all_timings(folder: Path, profile: str) -> Iterator[KernelTimings]:
    """Everything that was measured on the device of ``profile``."""
    if profile == "rtx-4090":
        yield from rtx_4090(folder)
    if profile not in AIC_GPUS:
        return
    yield from gemms(folder, profile)
    if (folder / "kernels/aic/moe.parquet").is_file():
        table = read_aic(folder, "moe", profile)
        for operator, dtype in EXPERTS.items():
            if dtype in set(table["dtype"].astype(str)):
                yield experts(operator, profile, table, dtype)
    for kv_dtype, suffix in (("bfloat16", ""), ("fp8", "_kv_float8")):
        yield prefill(folder, profile, kv_dtype, suffix)
        yield decode(folder, profile, kv_dtype, suffix)
    if profile in NVLINK:
        yield from all_reduces(folder, profile)
