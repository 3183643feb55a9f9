"""Statistics of a training run: where its time went, what it made, and how stale its gradients were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import PS_PER_S
from sim.results.metric import Better, Metric, Swept
from sim.results.summary import Summary
from sim.results.verdict import Verdict, Word
from sim.training.cautions import cautions_of
from sim.training.packing import Packed, packed
from sim.training.records import TrainingResult
from sim.training.scenario import (
    TrainingScenario,
    gpus_per_worker,
    num_gpus,
    step_shape,
    tokens_per_step,
)
from sim.training.schedule.failures import checkpoint_interval_s
from sim.training.schedule.job import devices
from sim.training.schedule.scaling import efficient_workers
from sim.training.step.layer import peak_of
from sim.training.step.time import model_flops_per_token
from sim.training.sync import SYNC
from sim.units import format_s

if TYPE_CHECKING:
    from sim.results.comparison import Comparison


# What real SGD made of a run's schedule: its metrics, why one is missing, and its warnings.

Numbers = dict[str, float | None]

NOT_ABOUT_LARGE_MODELS = (
    "The problem is small and its data generated: this shows what staleness and batch size do to SGD in "
    "principle. It does not say how many updates the scenario's own model needs: a large model's curvature, "
    "gradient noise, optimizer (Adam, warm-up, clipping) and tolerance of staleness are different."
)


def learning_metrics(result: TrainingResult) -> Numbers:
    """Final loss; updates, gradients and seconds to the target where it was reached."""
    found = result.learning
    if found is None:
        return {}
    updates, seconds = found.updates_to_target, found.time_to_target_s
    gradients = found.gradients_to_target
    return {
        "final_loss": float(found.curve.losses[-1]),
        "updates_to_target": None if updates is None else float(updates),
        "gradients_to_target": None if gradients is None else float(gradients),
        "updates_per_s_to_target": updates / seconds if updates and seconds else None,
        "time_to_target_s": seconds,
    }


def missing_learning(result: TrainingResult, name: str) -> str | None:
    """Why a metric of learning has no number; None for another metric."""
    if name not in LEARNING_METRICS:
        return None
    learning = result.scenario.learning
    if learning is None:
        return "the scenario has no learning"
    if learning.target_loss is None:
        return "the scenario has no learning.target_loss"
    return f"the run did not reach learning.target_loss {learning.target_loss:g}"


LEARNING_METRICS = (
    "final_loss",
    "updates_to_target",
    "gradients_to_target",
    "updates_per_s_to_target",
    "time_to_target_s",
)


def summarize(result: TrainingResult, *, keep_thin_percentiles: bool = False) -> Summary:
    """Every metric of the run; a number that cannot be had is None, with its reason in ``refused``."""
    numbers = {
        **_times(result),
        **_rates(result),
        **_staleness(result),
        **_failures(result),
        **_memory(result),
        **_scaling(result),
        **learning_metrics(result),
    }
    thin = numbers["num_updates"] is not None and numbers["num_updates"] < 1000 and not keep_thin_percentiles
    if thin:
        numbers["p99_step_s"] = None
    metrics = {name: numbers.get(name) for name in TRAINING_METRICS}
    scenario = result.scenario
    return Summary(
        question=scenario.question,
        variant=result.variant,
        seed=result.seed,
        hardware=scenario.hardware.name,
        model=scenario.model.name if scenario.model else "given times",
        allocator="",
        arrivals="",
        metrics=metrics,
        refused={name: _reason(result, name) for name, value in metrics.items() if value is None},
        meets_slo=None,
        verdict=_verdict(metrics),
        warnings=cautions_of(result),
        by_class={},
        whole_run={
            "num_updates": int(result.outcome.update_ps.size),
            "num_gradients": int(result.outcome.workers.num_steps.sum()),
            "num_cancelled": result.outcome.num_cancelled,
            "num_failures": int(result.failures.time_ps.size),
            "num_checkpoints": result.num_checkpoints,
        },
        window_s=(result.outcome.measured.begin_ps / PS_PER_S, result.outcome.measured.end_ps / PS_PER_S),
        notes=result.notes,
        kind="training",
        window=_window(result),
    )


def _training_s(result: TrainingResult) -> float:
    return int(result.outcome.update_ps[-1]) / PS_PER_S


def _window(result: TrainingResult) -> str:
    """What rates and mean times are of, where that is not the whole run."""
    steady = result.outcome.steady
    if steady is None:
        return ""
    before = f"{format_s(steady.begin_ps / PS_PER_S)} of start-up"
    return f"{format_s(_measured_s(result))}, after {before} (until the staleness bound held workers back)"


def _measured_s(result: TrainingResult) -> float:
    """What rates are divided by: the whole run, or what of it is steady."""
    return (result.outcome.measured.end_ps - result.outcome.measured.begin_ps) / PS_PER_S


def _times(result: TrainingResult) -> Numbers:
    """The split of a step, per finished step and worker."""
    outcome, measured = result.outcome, result.outcome.measured
    workers = measured.workers
    steps = max(1.0, float(workers.num_steps.sum(dtype=np.float64)))
    gaps = np.diff(outcome.update_ps, prepend=0) / PS_PER_S
    if outcome.steady is not None:  # every gradient is an update then
        gaps = gaps[measured.begin : measured.end]

    def mean_s(column: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
        return float(column.sum(dtype=np.float64)) / steps / PS_PER_S

    clean_ps, job = max(1, _clean_ps(result)), result.scenario.training
    step_s = _training_s(result) / job.num_steps
    slowdown = clean_ps / outcome.ideal_ps if outcome.ideal_ps else None
    if outcome.steady is not None:
        step_s = _measured_s(result) * job.num_workers / steps
        slowdown = slowdown and step_s * job.num_steps * PS_PER_S / outcome.ideal_ps
    exposed = mean_s(workers.exchange_ps)
    return {
        "training_s": _training_s(result),
        "step_s": step_s,
        "p50_step_s": float(np.median(gaps)),
        "p99_step_s": float(np.percentile(gaps, 99)),
        "max_step_s": float(gaps.max()),
        "compute_s": mean_s(workers.compute_ps),
        "data_stall_s": mean_s(workers.data_stall_ps),
        "stall_s": mean_s(workers.wait_ps),
        "comm_s": int(result.explain["exchange"]["comm_s"] * PS_PER_S) / PS_PER_S,
        "exposed_comm_s": exposed,
        "exposed_comm_fraction": exposed / step_s if step_s else None,
        "slowdown": slowdown,
        "data_stall_slowdown": clean_ps / outcome.no_stall_ps if outcome.no_stall_ps else None,
        "worst_worker_slowdown": max(outcome.slowdown_by_worker),
    }


def _clean_ps(result: TrainingResult) -> int:
    """The run without what failures and checkpoints took."""
    lost = int(result.failures.lost_ps.sum() + result.failures.restart_ps.sum()) + result.checkpoint_ps
    is_whole = not SYNC[result.scenario.sync.scheme].is_asynchronous
    return int(result.outcome.update_ps[-1]) - (lost if is_whole else 0)


def _rates(result: TrainingResult) -> Numbers:
    scenario, outcome = result.scenario, result.outcome
    total_s = _measured_s(result) or 1e-12
    gradients = float(outcome.measured.workers.num_steps.sum(dtype=np.float64))
    every = gradients + outcome.num_cancelled
    updates = outcome.update_ps.size if outcome.steady is None else gradients
    numbers: Numbers = {
        "num_updates": float(outcome.update_ps.size),
        "updates_per_s": updates / total_s,
        "gradients_per_s": gradients / total_s,
        "cancelled_fraction": outcome.num_cancelled / every if every else None,
    }
    fill = packed(scenario, result.seed)
    if scenario.model is None and scenario.training.max_seq_len is None:
        return numbers
    rate = gradients * tokens_per_step(scenario) * fill.computed_share / total_s
    useful = rate * (1 - fill.padding_fraction)
    price = scenario.hardware.usd_per_hour
    numbers |= {
        "tokens_per_s": rate,
        "useful_tokens_per_s": useful,
        "tokens_per_s_per_gpu": rate / num_gpus(scenario),
        "padding_fraction": _padding(scenario, fill),
        "cost_per_million_tokens": None
        if price is None or not useful
        else price * num_gpus(scenario) / 3600 / useful * 1e6,
    }
    if scenario.model is not None:
        numbers["mfu"] = rate * _flops_per_token(scenario) / _peak(scenario)
    return numbers


def _padding(scenario: TrainingScenario, fill: Packed) -> float | None:
    return None if scenario.packing is None else fill.padding_fraction


def _flops_per_token(scenario: TrainingScenario) -> float:
    return float(model_flops_per_token(step_shape(scenario)))


def _peak(scenario: TrainingScenario) -> float:
    """Peak of all GPUs together, each worker by its own device."""
    per_worker = gpus_per_worker(scenario)
    return float(
        sum(one.peak_flops_per_s[peak_of(step_shape(scenario, one))] for one in devices(scenario))
        * per_worker
    )


def _staleness(result: TrainingResult) -> Numbers:
    gradients = result.outcome.gradients
    if gradients is None or not gradients.update.size:
        return {"staleness_steps": 0.0, "max_staleness_steps": 0.0}
    staleness = gradients.staleness
    return {"staleness_steps": float(staleness.mean()), "max_staleness_steps": float(staleness.max())}


def _failures(result: TrainingResult) -> Numbers:
    """What failures and checkpoints took: of a synchronous job of everyone's time, else of one worker's."""
    ledger, failures = result.failures, result.scenario.failures
    if failures is None:
        return {}
    num_workers = result.scenario.training.num_workers
    lost = float(ledger.lost_ps.sum() + ledger.restart_ps.sum()) + result.checkpoint_ps
    is_alone = SYNC[result.scenario.sync.scheme].is_asynchronous
    share = lost / (num_workers if is_alone else 1) / max(1, int(result.outcome.update_ps[-1]))
    return {
        "num_failures": float(ledger.time_ps.size),
        "lost_fraction": share,
        "ettr_fraction": 1 - share,
        "checkpoint_interval_s": None if is_alone else checkpoint_interval_s(failures, num_workers),
    }


def _memory(result: TrainingResult) -> Numbers:
    memory = result.explain.get("memory")
    return {"peak_memory_bytes": float(memory["peak_memory_bytes"]) if memory else None}


def _scaling(result: TrainingResult) -> Numbers:
    scaling = result.scenario.scaling
    if scaling is None:
        return {}
    most = efficient_workers(result.scaling, scaling.min_efficiency)
    runs = [one.efficiency for one in result.scaling if not one.refused]
    return {"efficient_workers": most and float(most), "scaling_efficiency": runs[-1] if runs else None}


_WORDS: tuple[tuple[Word, str, str], ...] = (
    ("EXCHANGE_BOUND", "exposed_comm_s", "exchange that nothing hides"),
    ("STRAGGLER_BOUND", "stall_s", "waiting for slower workers"),
    ("DATA_BOUND", "data_stall_s", "waiting for data"),
    ("FAILURE_BOUND", "lost_s", "work done again, restarts, checkpoints"),
)
_HELD_BACK = 0.3  # of a step: so much of one cause is what to work on first, however long the computing takes


def _verdict(metrics: Numbers) -> Verdict:
    """What holds a worker back: the largest cause that is not computing, where it takes enough of a step."""
    lost_s = (metrics.get("lost_fraction") or 0.0) * (metrics["step_s"] or 0.0)
    spent = {name: float(metrics[name] or 0.0) for name in ("compute_s", "exposed_comm_s", "stall_s")}
    spent |= {"data_stall_s": float(metrics["data_stall_s"] or 0.0), "lost_s": lost_s}
    whole = sum(spent.values()) or 1.0
    word, name, _ = max(_WORDS, key=lambda one: spent[one[1]])
    named = (("compute_s", "computing"), *((one, said) for _, one, said in _WORDS))
    reason = ", ".join(
        f"{spent[one] / whole:.0%} {said}" for one, said in named if spent[one] / whole >= 0.005
    )
    return Verdict(
        word=word if spent[name] / whole >= _HELD_BACK else "COMPUTE_BOUND",
        reason=f"of a worker's step: {reason}",
    )


def _reason(result: TrainingResult, name: str) -> str:
    learning = missing_learning(result, name)
    if learning is not None:
        return learning
    if name == "p99_step_s":
        return "p99 needs 1,000 updates"
    if name in ("num_failures", "lost_fraction", "ettr_fraction", "checkpoint_interval_s"):
        is_there = result.scenario.failures is not None
        return "workers of such a job write no checkpoints" if is_there else "the scenario has no failures"
    if name == "padding_fraction":
        return "the scenario does not say how documents fill sequences"
    if name in ("efficient_workers", "scaling_efficiency"):
        return "the scenario asks for no scaling curve"
    if name in ("peak_memory_bytes", "mfu"):
        return "times are given without a model"
    if name == "cost_per_million_tokens":
        return "the profile has no price, or the step no tokens"
    return "no tokens: neither a model nor training.max_seq_len is given"


# Every metric of a training run: its name, unit, meaning and which way is better.

_ROWS: tuple[tuple[str, str, Better, str], ...] = (
    ("training_s", "s", "lower", "from the start to the last update, failures included"),
    ("step_s", "s", "lower", "training_s / steps a worker; as all rates without SSP's start-up (window_s)"),
    ("p50_step_s", "s", "lower", "median time between two updates (K-async: between its updates)"),
    ("p99_step_s", "s", "lower", "99th percentile of the same"),
    ("max_step_s", "s", "lower", "largest of the same"),
    ("num_updates", "updates", "neither", "updates of the weights"),
    ("updates_per_s", "updates/s", "neither", "updates / training_s"),
    ("gradients_per_s", "gradients/s", "higher", "gradients in these updates / training_s"),
    ("tokens_per_s", "tokens/s", "higher", "tokens of these gradients, padding included / training_s"),
    ("useful_tokens_per_s", "tokens/s", "higher", "the same without padding; stale gradients count in full"),
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
    (
        "slowdown",
        "ratio",
        "lower",
        "training_s over that of workers that all take the fleet's mean, a slow worker in it",
    ),
    ("data_stall_slowdown", "ratio", "lower", "training_s over the same run without waiting for data"),
    ("worst_worker_slowdown", "ratio", "lower", "slowdown if only the worst worker were as it is"),
    ("cancelled_fraction", "fraction", "lower", "steps whose gradient no update took"),
    ("num_failures", "failures", "lower", "workers that died"),
    ("lost_fraction", "fraction", "lower", "training_s spent on work done again, restarts and checkpoints"),
    ("ettr_fraction", "fraction", "higher", "effective training time: 1 - lost_fraction"),
    ("checkpoint_interval_s", "s", "neither", "training between two checkpoints, given or Young's"),
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
    "checkpoint_interval_s",
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


SWEPT = Swept(
    columns=TABLE,
    goals=("time_to_target_s", "useful_tokens_per_s", "gradients_per_s", "cost_per_million_tokens"),
    against=("time_to_target_s", "useful_tokens_per_s", "gradients_per_s"),
    load_keys=(
        "seeds",
        "model",
        "training.max_seq_len",
        "training.num_steps",
        "compute",
        "variation",
        "failures.mtbf_s",
        "failures.restart_s",
        "failures.checkpoint_s",
        "exchange.slow_links",
        "packing.lengths",
        "packing.num_documents",
        "learning",
        "scaling",
    ),
    choice_keys=("compute.host_s", "learning.learning_rate", "learning.staleness_aware"),
    compares_alike=True,
    circumstances=("compute", "variation", "failures", "exchange.slow_links"),
)
"""How a sweep is read."""


DECIDERS = (
    ("staleness_steps", "cancelled_fraction", "checkpoint_interval_s"),
    ("peak_memory_bytes",),
    ("tokens_per_s", "useful_tokens_per_s", "gradients_per_s"),
    ("mfu",),
    ("step_s",),
)
"""What decides beside the headline: of each group the first that has a number."""


def headline(comparison: Comparison) -> str:
    """What answers: where SGD ran, time to target or else the final loss, never speed alone.

    A target that some variant reached with every seed is what was asked for; of those that missed it the
    sentence says so. Without learning: how far it scales, where that is asked; tokens a second, useful ones
    where some are padding; gradients a second where no run says how many tokens a step has.
    """
    cells = comparison.cells
    if any(cells[name]["time_to_target_s"].mean is not None for name in comparison.variants):
        return "time_to_target_s"
    pads = any(cells[variant]["padding_fraction"].mean is not None for variant in comparison.variants)
    tokens = "useful_tokens_per_s" if pads else "tokens_per_s"
    for name in ("final_loss", "efficient_workers", tokens):
        if all(cells[variant][name].mean is not None for variant in comparison.variants):
            return name
    return "gradients_per_s"
