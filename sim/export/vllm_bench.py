"""A run as ``vllm bench serve`` would report it: its JSON keys and its console block.

The layout is that of ``vllm/benchmarks/serve.py`` (2026), so that ``diff`` can lay a simulated and a real
run side by side. Statistics are those of finished, measured requests, in milliseconds, and no
percentile is refused (vLLM refuses none): a time without samples is 0.0, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Bools, Int64
from sim.results.statistics import Spread
from sim.serving.front_end import FrontEnd
from sim.serving.record_statistics import class_slos, count, decode_step_ends, met_bounds, request_times
from sim.serving.records import FINISHED, STATUS_NAMES, RunResult
from sim.serving.summary import returned_at_once, time_spreads

_BLOCKS = {
    "ttft": ("ttft_s", "TTFT", "Time to First Token"),
    "tpot": ("tpot_s", "TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("itl_s", "ITL", "Inter-token Latency"),
    "e2el": ("e2e_s", "E2EL", "End-to-end Latency"),
}


def vllm_bench_json(
    result: RunResult, *, detailed: bool = False, percentiles: Sequence[int] = (99,)
) -> dict[str, Any]:
    """The keys of vLLM's result file, in its order; ``detailed`` adds the per-request lists.

    ``duration`` is the measured time. A preempted request's ``itls`` cannot be rebuilt from the
    records and are left empty. ``date`` and ``generated_texts`` are left out: there are none.
    """
    requests = result.requests
    chosen = requests.is_measured & (requests.arrival_ps >= 0)
    content = {**_head(result, count(chosen)), **_totals(result, chosen)}
    if detailed:
        content.update(_lists(result, chosen))
    content["max_output_tokens_per_s"], content["max_concurrent_requests"] = _peaks(result, chosen)
    for key, (_, _, _), sample in _samples(result):
        content[f"mean_{key}_ms"] = sample.mean * 1000 if sample else 0.0
        content[f"median_{key}_ms"] = sample.percentiles[50] * 1000 if sample else 0.0
        content[f"std_{key}_ms"] = sample.std * 1000 if sample else 0.0
        for percent in percentiles:
            content[f"p{percent}_{key}_ms"] = sample.percentiles[percent] * 1000 if sample else 0.0
    return content


def vllm_bench_block(
    result: RunResult,
    *,
    percentile_metrics: Sequence[str] = ("ttft", "tpot", "itl"),
    percentiles: Sequence[int] = (99,),
) -> str:
    """The console block of ``vllm bench serve``, trailing spaces and all."""
    numbers = vllm_bench_json(result, percentiles=percentiles)
    lines = ["{s:{c}^{n}}".format(s=" Serving Benchmark Result ", n=50, c="=")]
    for label, key, layout in _TOP_LINES:
        value = numbers[key]
        if value is not None and value != "inf":
            lines.append(f"{label:<40} {value:{layout}}")
    for key, (_, name, header) in _BLOCKS.items():
        if key in percentile_metrics:
            lines.append(f"{header:-^50}")
            stats = [("Mean", "mean"), ("Median", "median"), *((f"P{p}", f"p{p}") for p in percentiles)]
            for word, stat in stats:
                label = f"{word} {name} (ms):"
                lines.append(f"{label:<40} {numbers[f'{stat}_{key}_ms']:<10.2f}")
    return "\n".join([*lines, "=" * 50]) + "\n"


_TOP_LINES = (
    ("Successful requests:", "completed", "<10"),
    ("Failed requests:", "failed", "<10"),
    ("Maximum request concurrency:", "max_concurrency", "<10"),
    ("Request rate configured (RPS):", "request_rate", "<10.2f"),
    ("Benchmark duration (s):", "duration", "<10.2f"),
    ("Total input tokens:", "total_input_tokens", "<10"),
    ("Total generated tokens:", "total_output_tokens", "<10"),
    ("Request throughput (req/s):", "request_throughput", "<10.2f"),
    ("Request goodput (req/s):", "request_goodput", "<10.2f"),
    ("Output token throughput (tok/s):", "output_throughput", "<10.2f"),
    ("Peak output token throughput (tok/s):", "max_output_tokens_per_s", "<10.2f"),
    ("Peak concurrent requests:", "max_concurrent_requests", "<10.2f"),
    ("Total token throughput (tok/s):", "total_token_throughput", "<10.2f"),
)


def _head(result: RunResult, num_prompts: int) -> dict[str, Any]:
    """How the load was offered, in vLLM's words: burstiness 1 is Poisson, infinity even spacing."""
    arrivals = result.scenario.workload.arrivals
    process = arrivals.process if arrivals is not None else "trace"
    rate = arrivals.requests_per_s if arrivals is not None else None
    burstiness = 1.0
    if arrivals is not None and process == "gamma" and arrivals.cv is not None:
        burstiness = 1 / (arrivals.cv * arrivals.cv)
    return {
        "endpoint_type": "gpuyard",
        "backend": "gpuyard",
        "label": result.variant,
        "model_id": result.scenario.model.name,
        "tokenizer_id": None,
        "num_prompts": num_prompts,
        "request_rate": "inf" if rate is None else rate,
        "burstiness": "inf" if process == "constant" else burstiness,
        "max_concurrency": arrivals.concurrency if arrivals is not None and arrivals.is_closed_loop else None,
    }


def _totals(result: RunResult, chosen: Bools) -> dict[str, Any]:
    requests = result.requests
    finished = chosen & (requests.status == FINISHED)
    met = met_bounds(requests, class_slos(result))
    duration = (result.whole_ps[1] - result.whole_ps[0]) / PS_PER_S
    rate = 1 / duration if duration > 0 else 0.0
    prompt = int(requests.prompt_tokens[finished].sum())
    output = int(requests.generated_tokens[finished].sum())
    good = count(np.logical_and.reduce([*met.values()]) & chosen) * rate if met else None
    return {
        "duration": duration,
        "completed": count(finished),
        "failed": count(chosen & ~finished),
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "request_throughput": count(finished) * rate,
        "request_goodput": good,
        "output_throughput": output * rate,
        "total_token_throughput": (prompt + output) * rate,
    }


def _samples(result: RunResult) -> list[tuple[str, tuple[str, str, str], Spread | None]]:
    spreads: Mapping[str, Spread | None] = time_spreads(result)
    return [(key, block, spreads[block[0]]) for key, block in _BLOCKS.items()]


def _lists(result: RunResult, chosen: Bools) -> dict[str, Any]:
    """One entry per request; a failed one has no tokens and its status as the error."""
    requests, times = result.requests, request_times(result.requests)
    ids = np.flatnonzero(chosen)
    finished = requests.status[ids] == FINISHED
    return {
        "input_lens": requests.prompt_tokens[ids].tolist(),
        "output_lens": np.where(finished, requests.generated_tokens[ids], 0).tolist(),
        "ttfts": (np.where(finished, times.ttft[ids], 0) / PS_PER_S).tolist(),
        "itls": _itls(result, ids),
        "start_times": (requests.arrival_ps[ids] / PS_PER_S).tolist(),
        "errors": ["" if s == FINISHED else STATUS_NAMES[s] for s in requests.status[ids].tolist()],
    }


def _itls(result: RunResult, ids: Int64) -> list[list[float]]:
    """Each request's gaps, where its tokens are exactly the decoding steps between first and last."""
    requests = FrontEnd.of(result.scenario).at_engine(result.requests)
    ends = {int(r): decode_step_ends(result.segments, int(r))[0] for r in np.unique(result.segments.replica)}
    num_gaps = np.where(requests.status == FINISHED, requests.generated_tokens - 1, 0)
    found: list[list[float]] = []
    for i in ids.tolist():
        first, last, gaps = requests.first_token_ps[i], requests.finish_ps[i], np.empty(0)
        steps = ends.get(int(requests.replica[i]))
        if num_gaps[i] > 0 and first == last:
            gaps = np.zeros(int(num_gaps[i]))
        elif num_gaps[i] > 0 and steps is not None and requests.num_preemptions[i] == 0:
            begin, end = np.searchsorted(steps, [first, last], side="right")
            if end - begin == num_gaps[i]:
                gaps = np.diff(steps[begin:end], prepend=first) / PS_PER_S
        found.append(gaps.tolist())
    return found


def _peaks(result: RunResult, chosen: Bools) -> tuple[float, int]:
    """Most output tokens, and most requests in flight, in any whole second from the first send on.

    Requests are those that finished; tokens after the first are those of every decoding sequence.
    """
    requests = result.requests
    ids = np.flatnonzero(chosen & (requests.status == FINISHED))
    if ids.size == 0:
        return 0.0, 0
    begin = int(requests.arrival_ps[ids].min())
    sent, done = ((x[ids] - begin) // PS_PER_S for x in (requests.arrival_ps, requests.finish_ps))
    num_seconds = int(done.max()) + 2
    change = np.bincount(sent, minlength=num_seconds) - np.bincount(done + 1, minlength=num_seconds)
    tokens = _tokens_by_second(result, ids, begin, num_seconds)
    return float(tokens.max()), int(np.cumsum(change).max())


def _tokens_by_second(
    result: RunResult, ids: Int64, begin_ps: int, num_seconds: int
) -> npt.NDArray[np.float64]:
    """Output tokens in each second since ``begin_ps``."""
    requests = result.requests

    def by_second(times_ps: Int64, weights: Int64) -> npt.NDArray[np.float64]:
        inside = (times_ps >= begin_ps) & (times_ps < begin_ps + num_seconds * PS_PER_S)
        seconds = (times_ps[inside] - begin_ps) // PS_PER_S
        return np.bincount(seconds, weights[inside], num_seconds).astype(np.float64)

    if returned_at_once(result):
        return by_second(requests.finish_ps[ids], requests.generated_tokens[ids])
    tokens = by_second(requests.first_token_ps[ids], np.ones_like(ids))
    for replica in np.unique(result.segments.replica):
        tokens += by_second(*decode_step_ends(result.segments, int(replica)))
    return tokens
