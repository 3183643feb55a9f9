"""A metric: its name, plain name, unit, meaning, which way is better; its value as a reader wants it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sim.scenario.dataclass import dataclass
from sim.units import format_gb, format_s

Better = Literal["higher", "lower", "neither"]
PERCENTILES = (50, 90, 95, 99)  # of every time that has a distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of a summary. Its name is the same everywhere; beside it stands a plain one (``label``)."""

    name: str
    unit: str
    meaning: str
    better: Better

    @property
    def label(self) -> str:
        """Its name in words: "p99 TTFT" of ``p99_ttft_s``. The unit stands with the value."""
        return label_of(self.name)


def label_of(name: str) -> str:
    """A metric's name in words."""
    return LABELS.get(name) or _in_words(name)


LABELS: Mapping[str, str] = {
    "achieved_flops_per_s": "achieved FLOP/s",
    "achieved_hbm_bytes_per_s": "achieved memory bandwidth",
    "blocks_per_sm": "resident blocks per SM",
    "busy_fraction": "time in steps",
    "cancelled_fraction": "share of cancelled steps",
    "checkpoint_interval_s": "time between checkpoints",
    "compute_bound_fraction": "bound by compute",
    "cost_per_million_output_tokens": "cost per million output tokens",
    "cost_per_million_tokens": "cost per million tokens",
    "draft_acceptance_fraction": "accepted drafts",
    "e2e_attainment_fraction": "requests within the SLO's end-to-end time",
    "energy_j_per_token": "energy per output token, at most",
    "ettr_fraction": "effective training time",
    "exposed_comm_fraction": "exposed communication, share of a step",
    "goodput_fraction": "requests within the SLO",
    "goodput_requests_per_s": "goodput",
    "hbm_after_l2_bytes": "HBM traffic",
    "hbm_bytes": "loads and stores before L2",
    "hbm_read_bytes": "loads before L2",
    "hbm_write_bytes": "stores before L2",
    "host_copy_s": "host link time",
    "idle_fraction": "idle block slots",
    "kv_external_fraction": "KV cache lost to fragments",
    "kv_internal_fraction": "KV cache reserved for nothing",
    "kv_reserved_fraction": "KV cache reserved for later",
    "kv_tokens_fraction": "KV cache holding tokens",
    "kv_used_fraction": "KV cache in use",
    "kv_waste_fraction": "KV cache wasted",
    "latency_bound_fraction": "bound by latency",
    "launch_s": "time between kernels",
    "lost_fraction": "time lost to failures",
    "max_kv_used_fraction": "KV cache in use, most",
    "max_num_running": "running sequences, most",
    "max_staleness_steps": "largest staleness",
    "max_step_s": "longest time per step",
    "mean_num_running": "running sequences, mean",
    "mean_num_waiting": "waiting requests, mean",
    "memory_bound_fraction": "bound by memory",
    "memory_bytes": "memory in all",
    "num_blocks": "thread blocks",
    "num_offered": "requests offered",
    "num_finished": "requests finished",
    "num_refused": "requests refused",
    "num_aborted": "requests given up",
    "num_unfinished": "requests unfinished",
    "occupancy_fraction": "occupancy",
    "p50_step_s": "p50 time per step",
    "p99_step_s": "p99 time per step",
    "peak_fraction": "share of the peak FLOP/s",
    "prefix_hit_fraction": "prefix cache hit rate",
    "recompute_fraction": "recompute tax",
    "recompute_s": "recompute time",
    "requests_per_s": "requests per second",
    "gradients_to_target": "gradients to the target loss",
    "scaling_efficiency": "scaling efficiency",
    "sram_peak_bytes": "SRAM in use, most",
    "staleness_steps": "staleness",
    "stall_s": "waiting time per step",
    "data_stall_s": "waiting for data per step",
    "compute_s": "compute per step",
    "comm_s": "communication per step",
    "exposed_comm_s": "exposed communication per step",
    "step_s": "time per step",
    "time_s": "time",
    "time_to_target_s": "time to the target loss",
    "tokens_per_s_per_gpu": "tokens per second and GPU",
    "tpot_attainment_fraction": "requests within the SLO's TPOT",
    "training_s": "training time",
    "ttft_attainment_fraction": "requests within the SLO's TTFT",
    "updates_per_s_to_target": "updates per second, until the target loss",
    "updates_to_target": "updates to the target loss",
}
"""Where the rule of ``_in_words`` would read badly."""

_TERMS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2e": "end-to-end time",
    "queue": "queueing time",
    "kv": "KV",
    "gpu": "GPU",
    "hbm": "HBM",
    "mfu": "MFU",
    "flops": "FLOPs",
    "std": "standard deviation of",
    "max": "largest",
    "num": "",
}


def _in_words(name: str) -> str:
    words = name.split("_")
    if len(words) > 1 and words[-1] in ("fraction", "bytes"):
        words.pop()
    elif words[-1] == "s":
        words[-2:] = ["per", "second"] if words[-2] == "per" else [words[-2]]
    return " ".join(filter(None, (_TERMS.get(word, word) for word in words)))


def _size(num_bytes: float) -> str:
    if num_bytes >= 1e13:
        return f"{num_bytes / 1e12:,.0f} TB"
    return format_gb(num_bytes) if num_bytes >= 1e7 else f"{num_bytes / 1024:,.4g} KiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How a sweep over scenarios of a kind is read.

    ``load_keys`` say what is asked for, and so are answered each for itself; every other key is a choice, and
    choices compete. A key stands for those below it, except the ones in ``choice_keys``.
    """

    columns: Sequence[str]  # of a sweep that names none
    goals: Sequence[str]  # what is looked for where no SLO decides: the first that every point has
    against: Sequence[str]  # what cost is set against, unless the SLO limits a time
    load_keys: Sequence[str] = ("seeds",)
    choice_keys: Sequence[str] = ()
    compares_alike: bool = (
        False  # variants of a comparison, too, compete only where they are asked for the same
    )
    circumstances: Sequence[str] = ()  # of what is asked for: the same work, that something else befalls
    compared_keys: Sequence[str] = ()  # where a comparison asks by other keys than a sweep: these, ...
    competing_keys: Sequence[str] = ()  # ... but for those that stay choices
    is_told_apart_only: bool = False  # where all are asked for the same, nothing is said of choices

    def is_asked(self, key: str) -> bool:
        """Whether a key path says what is asked for; the longest listed path that covers it decides."""
        return _covering(self.load_keys, key) > _covering(self.choice_keys, key)

    def is_compared(self, key: str) -> bool:
        """The same between the variants of a comparison."""
        if not self.compared_keys:
            return self.is_asked(key)
        return _covering(self.compared_keys, key) > _covering(self.competing_keys, key)

    def is_circumstance(self, key: str) -> bool:
        """Whether it says what befalls the work."""
        return _covering(self.circumstances, key) > 0


def _covering(listed: Iterable[str], key: str) -> int:
    return max((len(one) for one in listed if f"{key}.".startswith((f"{one}.", f"{one}["))), default=0)


def format_metric(value: float | None, metric: Metric, *, with_rate_unit: bool = True) -> str:
    """A value as a reader wants it: "12.3 ms", "7.91 requests/s", "45.2 %", "140 TB", "1,204"."""
    if value is None:
        return "-"
    unit = metric.unit
    if unit == "s":
        return format_s(value)
    if unit == "bytes" and value >= 4096:
        return _size(value)
    if unit in ("FLOP/s", "bytes/s") and value >= 1e9:
        size, prefix = (value / 1e12, "T") if value >= 1e12 else (value / 1e9, "G")
        shown = f"{size:,.0f}" if size >= 100 else f"{size:.3g}"
        return f"{shown} {prefix}{unit.replace('bytes', 'B')}"
    if unit == "fraction":
        return f"{value * 100:.3g} %"
    whole = abs(value) >= 1000 or (float(value).is_integer() and "/" not in unit)
    shown = f"{value:,.0f}" if whole else f"{value:#.3g}".rstrip(".")
    if unit == "usd":
        return f"${shown}"
    return f"{shown} {unit}" if with_rate_unit and ("/" in unit or unit == "J") else shown
