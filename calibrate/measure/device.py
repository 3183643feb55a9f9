"""Which GPU this is, and how it is doing: what stands beside every row."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

# A part of torch's name of the device, and our profile of it.
PROFILES: Mapping[str, str] = {
    "H200": "h200-sxm-141gb",
    "H100 80GB HBM3": "h100-sxm-80gb",
    "H100 PCIe": "h100-pcie-80gb",
    "A100-SXM4-80GB": "a100-sxm-80gb",
    "A100-SXM4-40GB": "a100-sxm-40gb",
    "A100 80GB PCIe": "a100-pcie-80gb",
    "A100-PCIE-40GB": "a100-pcie-40gb",
    "B200": "b200-sxm-180gb",
    "L40S": "l40s",
    "RTX 4090": "rtx-4090",
    "RTX 3090": "rtx-3090",
}
QUERY = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "driver_version")
STATE = ("sm_clock_hz", "memory_clock_hz", "temperature_c", "power_w")
SECONDS_BETWEEN_QUERIES = 1.0  # asking takes some 50 ms


def why_no_gpu() -> str | None:
    """One line when nothing can be measured here."""
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install -c constraints.txt -e '.[calibrate]'"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def device_name() -> str:
    """torch's name of the current device."""
    import torch

    return str(torch.cuda.get_device_name())


def profile_of(name: str) -> str | None:
    """The shipped profile of a device of this name."""
    return next((profile for part, profile in PROFILES.items() if part in name), None)


def versions() -> dict[str, str]:
    """Device and software, once a run."""
    import torch
    import triton

    return {
        "gpu": device_name(), "driver": query()[-1], "cuda": str(torch.version.cuda),
        "torch": torch.__version__, "triton": triton.__version__, "commit": commit(),
    }  # fmt: skip


def commit() -> str:
    """Of the checkout; empty outside git."""
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def query() -> list[str]:
    """What nvidia-smi answers to ``QUERY``; empty strings where it does not."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return [""] * len(QUERY)
    return [value.strip() for value in done.stdout.splitlines()[0].split(",")]


@dataclass(slots=True)
class State:
    """Clocks, temperature and power, asked at most once a second."""

    asked_s: float = float("-inf")
    values: dict[str, str] = field(default_factory=dict)

    def now(self) -> dict[str, str]:
        """Base units: hertz, degrees Celsius, watts."""
        if time.monotonic() - self.asked_s > SECONDS_BETWEEN_QUERIES:
            answers = query()
            hertz = [f"{float(mhz) * 1e6:.0f}" if mhz else "" for mhz in answers[:2]]
            self.values = dict(zip(STATE, [*hertz, *answers[2:4]], strict=True))
            self.asked_s = time.monotonic()
        return self.values
