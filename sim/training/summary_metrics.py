"""Every metric of a training run: its name, unit, meaning and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sim.metric import Better, Metric

if TYPE_CHECKING:
    from sim.comparison import Comparison

_ROWS: tuple[tuple[str, str, Better, str], ...] = (
    ("training_s", "s", "lower", "from the start to the last update, failures included"),
    ("step_s", "s", "lower", "training_s / steps a worker"),
    ("p50_step_s", "s", "lower", "median time between two updates (K-async: between its updates)"),
    ("p99_step_s", "s", "lower", "99th percentile of the same"),
    ("max_step_s", "s", "lower", "largest of the same"),
    ("num_updates", "updates", "neither", "updates of the weights"),
    ("updates_per_s", "updates/s", "neither", "updates / training_s"),
    ("gradients_per_s", "gradients/s", "higher", "gradients in these updates / training_s"),
    ("tokens_per_s", "tokens/s", "higher", "tokens of these gradients, padding included / training_s"),
    ("useful_tokens_per_s", "tokens/s", "higher", "the same without padding"),
    ("tokens_per_s_per_gpu", "tokens/s", "higher", "tokens_per_s / GPUs"),
    ("mfu", "fraction", "higher", "model FLOPs of these tokens / peak of all GPUs over training_s"),
    ("compute_s", "s", "lower", "forward and backward of a step, mean over workers and steps"),
    ("data_stall_s", "s", "lower", "waiting for the data loader, mean per worker and step"),
    ("stall_s", "s", "lower", "waiting for slower workers or at the gate, mean per worker and step"),
    ("comm_s", "s", "lower", "the links' time in one worker's step, hidden or not, without queueing"),
    ("exposed_comm_s", "s", "lower", "exchange that nothing hides, queueing included, mean per step"),
    ("exposed_comm_fraction", "fraction", "lower", "exposed_comm_s / step_s"),
    (
        "staleness_steps",
        "updates",
        "lower",
        "updates between reading the weights and using the gradient, mean",
    ),
    ("max_staleness_steps", "updates", "lower", "the largest of these"),
    ("slowdown", "ratio", "lower", "training_s over that of workers that all take the mean compute time"),
    ("data_stall_slowdown", "ratio", "lower", "training_s over the same run without waiting for data"),
    ("worst_worker_slowdown", "ratio", "lower", "slowdown if only the worst worker were as it is"),
    ("cancelled_fraction", "fraction", "lower", "steps whose gradient no update took"),
    ("num_failures", "failures", "lower", "workers that died"),
    ("lost_fraction", "fraction", "lower", "training_s spent on work done again, restarts and checkpoints"),
    ("ettr_fraction", "fraction", "higher", "effective training time: 1 - lost_fraction"),
    ("efficient_workers", "workers", "higher", "up to which scaling.min_efficiency holds, of scaling's"),
    ("scaling_efficiency", "fraction", "higher", "rate per worker, scaling's most workers over its fewest"),
    ("padding_fraction", "fraction", "lower", "computed tokens that are padding"),
    ("peak_memory_bytes", "bytes", "lower", "of the fullest GPU, at the start of the backward pass"),
    ("cost_per_million_tokens", "usd", "lower", "price of all GPUs / useful tokens"),
    (
        "final_loss",
        "nats",
        "lower",
        "of learning's problem on this schedule; at most 1e6 times its start",
    ),
    ("updates_to_target", "updates", "lower", "until learning.target_loss: statistical efficiency"),
    ("gradients_to_target", "gradients", "lower", "in these updates, of all workers"),
    ("updates_per_s_to_target", "updates/s", "neither", "updates / s until then: hardware efficiency"),
    ("time_to_target_s", "s", "lower", "updates_to_target / updates_per_s_to_target"),
)

TRAINING_METRICS: Mapping[str, Metric] = {
    name: Metric(name=name, unit=unit, meaning=meaning, better=better)
    for name, unit, better, meaning in _ROWS
}

TABLE = (
    "tokens_per_s",
    "useful_tokens_per_s",
    "gradients_per_s",
    "updates_per_s",
    "step_s",
    "p99_step_s",
    "compute_s",
    "exposed_comm_s",
    "stall_s",
    "data_stall_s",
    "staleness_steps",
    "slowdown",
    "cancelled_fraction",
    "num_failures",
    "ettr_fraction",
    "efficient_workers",
    "scaling_efficiency",
    "mfu",
    "padding_fraction",
    "peak_memory_bytes",
    "cost_per_million_tokens",
    "final_loss",
    "updates_to_target",
    "gradients_to_target",
    "updates_per_s_to_target",
    "time_to_target_s",
)


def headline(comparison: Comparison) -> str:
    """What answers: where SGD ran, time to target or else the final loss, never speed alone.

    Time to target needs a reference and one more variant that reached it with every seed. Without learning:
    how far it scales, where that is asked; useful tokens a second; gradients a second where no run says how
    many tokens a step has.
    """
    cells = comparison.cells
    timed = [name for name in comparison.variants if cells[name]["time_to_target_s"].mean is not None]
    if comparison.reference in timed and len(timed) >= min(2, len(comparison.variants)):
        return "time_to_target_s"
    for name in ("final_loss", "efficient_workers", "useful_tokens_per_s", "tokens_per_s"):
        if all(cells[variant][name].mean is not None for variant in comparison.variants):
            return name
    return "gradients_per_s"
