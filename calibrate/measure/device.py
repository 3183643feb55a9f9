"""Which GPU this is, and how it is doing: what stands beside every row."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass, field

from sim.hardware import hardware_names

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
    """The shipped profile of a device that torch calls ``name``, by the words that both have.

    "NVIDIA A100-SXM4-80GB" is a100-sxm-80gb. The chip's word (a100; rtx 4090) must be there; where
    nothing tells a board from its PCIe sister ("H100 80GB HBM3"), it is not on PCIe.
    """
    words = re.findall(r"[a-z]+\d*\w*|\d+\w*", name.lower())
    best: tuple[int, int, str] | None = None
    for profile in hardware_names():
        parts = profile.split("-")
        chip = parts if parts[0] == "rtx" else parts[:1]
        if not all(one in words for one in chip):
            continue
        shared = sum(any(word.startswith(part) for word in words) for part in parts)
        best = max(best or (-1, 0, ""), (shared, -("pcie" in parts), profile))
    return best[2] if best else None


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
