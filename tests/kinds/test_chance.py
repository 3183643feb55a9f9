"""Whether another seed changes anything: said of a run only where it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.kinds.load import load_scenario
from sim.kinds.registry import kind_of
from sim.kinds.run import run_scenario
from sim.results.answer import answer_line

SERVING = """\
schema_version: 1
question: Does a seed matter?
kind: serving
hardware: a100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: constant, requests_per_s: 20}
  prompt_tokens: {distribution: fixed, value: 100}
  output_tokens: {distribution: fixed, value: 5}
  num_requests: 100
"""
TRACE = """\
schema_version: 1
question: Does a seed matter?
kind: serving
hardware: a100-sxm-80gb
model: llama-3.1-8b
workload:
  trace:
    {path: trace.csv, format: csv, time_unit: s, columns: {arrival: at, prompt_tokens: p, output_tokens: o}}
"""
TRAINING = """\
schema_version: 1
question: Does a seed matter?
kind: training
hardware: a100-sxm-80gb
training: {num_workers: 4, num_steps: 20}
compute: {compute_s: 100 ms, gradient_bytes: 1000000}
"""
KERNEL = """\
schema_version: 1
question: Does a seed matter?
kind: kernel
hardware: a100-sxm-80gb
kernel: {gemm: {m: 512, n: 512, k: 512}}
"""
POISSON = "workload.arrivals={process: poisson, requests_per_s: 20}"
PREFIXES = "workload.shared_prefix={num_groups: 3, prefix_tokens: {distribution: fixed, value: 32}}"
CASES = [
    (SERVING, [], False),
    (SERVING, [POISSON], True),
    (SERVING, ["workload.output_tokens={distribution: geometric, mean: 5}"], True),
    (SERVING, ["workload.arrivals={process: closed_loop, concurrency: 4}"], False),
    (SERVING, ["engine={service_time: {distribution: exponential, mean: 0.01}, max_num_seqs: 1}"], True),
    (SERVING, ["engine.speculative={num_speculative_tokens: 2, acceptance_rate: 0.5}"], True),
    (SERVING, [PREFIXES], True),
    (TRACE, [], False),
    (TRACE, [POISSON], True),
    (TRAINING, [], False),
    (TRAINING, ["variation={distribution: exponential}"], True),
    (TRAINING, ["failures={mtbf_s: 4, interval_s: 1}"], True),
    (KERNEL, [], False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "changes", "draws"), CASES)
def test_one_seed_is_said_exactly_where_two_seeds_differ(
    text: str, changes: list[str], draws: bool, empty_folder: Path
) -> None:
    rows = [f"{i / 10},{50 + i},{2 + i % 3}" for i in range(100)]
    Path("trace.csv").write_text("\n".join(["at,p,o", *rows]) + "\n", encoding="utf-8")
    Path("one.yaml").write_text(text, encoding="utf-8")
    file = load_scenario("one.yaml", overrides=changes)
    assert kind_of(file.base).draws(file.base) is draws
    answer = run_scenario(file, record_block_map=False)
    said = {caution.kind for _, caution in answer.comparison.warnings}
    assert ("one_seed" in said) is draws
    assert ("one seed" in answer_line(answer.comparison)) is draws
    both = run_scenario(
        load_scenario("one.yaml", overrides=[*changes, "seeds=[1,2]"]), record_block_map=False
    )
    first, second = both.summaries["base"]
    assert (first.metrics != second.metrics) is draws
