"""Statistics of a training run: where its time went, what it made, and how stale its gradients were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import PS_PER_S
from sim.price.collective import nccl_facts
from sim.price.figures import Used, figures_caution, together
from sim.results.metric import Better, Metric, Swept
from sim.results.summary import Summary
from sim.results.verdict import Verdict, Word
from sim.scenario.caution import Caution
from sim.training.exchange.algorithms import EXCHANGES
from sim.training.packing import Packed, packed
from sim.training.records import TrainingResult
from sim.training.scenario import (
    TrainingScenario,
    draws,
    gpus_per_worker,
    num_gpus,
    step_shape,
    tokens_per_step,
)
from sim.training.schedule.job import devices, is_priced
from sim.training.schedule.scaling import efficient_workers
from sim.training.step.layer import peak_of, used_by_step
from sim.training.step.time import model_flops_per_token
from sim.training.sync import SYNC

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


def learning_cautions(result: TrainingResult) -> list[Caution]:
    """A loss that did not fall, a target that was not reached."""
    learning, found = result.scenario.learning, result.learning
    if learning is None or found is None:
        return []
    if not found.curve.has_learnt:
        return [
            Caution(
                kind="loss_not_falling",
                observation=f"the loss of {learning.problem} ended at or above its start",
                meaning="under this schedule the learning rate is too high: the weights diverge",
                remedy="lower learning.learning_rate, or set staleness_aware where gradients are stale",
            )
        ]
    if learning.target_loss is None or found.time_to_target_s is not None:
        return []
    more = "learning.max_gradients" if found.is_cut else "training.num_steps"
    return [
        Caution(
            kind="target_not_reached",
            observation=f"learning.target_loss {learning.target_loss:g} was not reached",
            meaning="there is no time to target to compare",
            remedy=f"raise {more} or learning.target_loss, or change the learning rate",
        )
    ]


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
        warnings=_cautions(result),
        by_class={},
        whole_run={
            "num_updates": int(result.outcome.update_ps.size),
            "num_gradients": int(result.outcome.workers.num_steps.sum()),
            "num_cancelled": result.outcome.num_cancelled,
            "num_failures": int(result.failures.time_ps.size),
            "num_checkpoints": result.num_checkpoints,
        },
        window_s=(0.0, _training_s(result)),
        notes=result.notes,
        kind="training",
    )


def _training_s(result: TrainingResult) -> float:
    return int(result.outcome.update_ps[-1]) / PS_PER_S


def _times(result: TrainingResult) -> Numbers:
    """The split of a step, per finished step and worker."""
    outcome, workers = result.outcome, result.outcome.workers
    total_s = _training_s(result)
    steps = max(1.0, float(workers.num_steps.sum(dtype=np.float64)))
    gaps = np.diff(outcome.update_ps, prepend=0) / PS_PER_S

    def mean_s(column: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
        return float(column.sum(dtype=np.float64)) / steps / PS_PER_S

    clean_ps = max(1, _clean_ps(result))
    step_s = total_s / result.scenario.training.num_steps
    exposed = mean_s(workers.exchange_ps)
    return {
        "training_s": total_s,
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
        "slowdown": clean_ps / outcome.ideal_ps if outcome.ideal_ps else None,
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
    total_s = _training_s(result) or 1e-12
    gradients = float(outcome.workers.num_steps.sum(dtype=np.float64))
    every = gradients + outcome.num_cancelled
    numbers: Numbers = {
        "num_updates": float(outcome.update_ps.size),
        "updates_per_s": outcome.update_ps.size / total_s,
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
    ledger = result.failures
    lost = float(ledger.lost_ps.sum() + ledger.restart_ps.sum()) + result.checkpoint_ps
    if SYNC[result.scenario.sync.scheme].is_asynchronous:
        lost /= result.scenario.training.num_workers
    share = lost / max(1, int(result.outcome.update_ps[-1]))
    if result.scenario.failures is None:
        return {"num_failures": None, "lost_fraction": None, "ettr_fraction": None}
    return {
        "num_failures": float(ledger.time_ps.size),
        "lost_fraction": share,
        "ettr_fraction": 1 - share,
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
    ("COMPUTE_BOUND", "compute_s", "computing"),
    ("EXCHANGE_BOUND", "exposed_comm_s", "exchange that nothing hides"),
    ("STRAGGLER_BOUND", "stall_s", "waiting for slower workers"),
    ("DATA_BOUND", "data_stall_s", "waiting for data"),
)


def _verdict(metrics: Numbers) -> Verdict:
    """Where most of a worker's step goes."""
    shares = [(float(metrics[name] or 0.0), word, said) for word, name, said in _WORDS]
    whole = sum(share for share, _, _ in shares) or 1.0
    if (metrics.get("lost_fraction") or 0.0) > 0.5:
        return Verdict(
            word="FAILURE_BOUND", reason="most of the time is work done again, restarts, checkpoints"
        )
    _, word, _ = max(shares, key=lambda share: share[0])
    reason = ", ".join(f"{share / whole:.0%} {said}" for share, _, said in shares if share / whole >= 0.005)
    return Verdict(word=word, reason=f"of a worker's step: {reason}")


def figure_cautions(result: TrainingResult) -> list[Caution]:
    """One per device of the job whose figures were not all measured on it."""
    scenario, job = result.scenario, result.scenario.training
    is_nccl = EXCHANGES[scenario.exchange.algorithm].is_nccl and job.num_workers > 1
    found = []
    for hardware in {one.name: one for one in devices(scenario)}.values():
        used = []
        if is_priced(scenario):
            used.append(used_by_step(step_shape(scenario, hardware)))
        if is_nccl or (job.tensor_parallel_size > 1 and is_priced(scenario)):
            used.append(Used(assumed=(nccl_facts(hardware.architecture).assumed,)))
        found.append(figures_caution(hardware, together(used)))
    return [caution for caution in found if caution is not None]


def _cautions(result: TrainingResult) -> tuple[Caution, ...]:
    found = figure_cautions(result)
    if result.outcome.update_ps.size < 30 and draws(result.scenario):
        found.append(
            Caution(
                kind="too_few_steps",
                observation=f"{result.outcome.update_ps.size} updates",
                meaning="the means depend on which step times were drawn",
                remedy="raise training.num_steps",
            )
        )
    return (*found, *learning_cautions(result))


def _reason(result: TrainingResult, name: str) -> str:
    learning = missing_learning(result, name)
    if learning is not None:
        return learning
    if name == "p99_step_s":
        return "p99 needs 1,000 updates"
    if name in ("num_failures", "lost_fraction", "ettr_fraction"):
        return "the scenario has no failures"
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
)
"""How a sweep is read."""


DECIDERS = (
    ("peak_memory_bytes",),
    ("useful_tokens_per_s", "tokens_per_s", "gradients_per_s"),
    ("mfu",),
    ("step_s",),
)
"""What decides beside the headline: of each group the first that has a number."""


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
