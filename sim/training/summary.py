"""Statistics of a training run: where its time went, what it made, and how stale its gradients were."""

from __future__ import annotations

import numpy as np

from sim.cautions import Caution
from sim.records import PS_PER_S
from sim.summary import Summary
from sim.training.job_packing import Packed, packed
from sim.training.records import TrainingResult
from sim.training.scaling import efficient_workers
from sim.training.scenario import TrainingScenario, gpus_per_worker, num_gpus, step_shape, tokens_per_step
from sim.training.step_time import model_flops_per_token
from sim.training.step_time_layer import peak_of
from sim.training.summary_learning import learning_cautions, learning_metrics, missing_learning
from sim.training.summary_metrics import TRAINING_METRICS
from sim.training.sync import SYNC
from sim.verdict import Verdict, Word

Numbers = dict[str, float | None]


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
    from sim.training.job import devices

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


def _cautions(result: TrainingResult) -> tuple[Caution, ...]:
    found = []
    if result.outcome.update_ps.size < 30:
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
