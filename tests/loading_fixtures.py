"""A good scenario to change, and shorthands to load changed ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.scenario.file import ScenarioFile

GOOD = """\
schema_version: 1
question: What does continuous batching gain over static?
kind: serving
seeds: [1, 2, 3]
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 8}
  prompt_tokens: {distribution: lognormal, mean: 512, max: 4096}
  output_tokens: {distribution: lognormal, mean: 256, max: 1024}
  num_requests: 2000
  warmup_requests: 200
engine:
  batching: continuous
  kv_allocator: paged
  max_num_seqs: 256
  max_num_batched_tokens: 8192
  max_model_len: 8192
  block_size: 16
  gpu_memory_utilization: 0.90
  enable_chunked_prefill: true
slo: {ttft_s: 500 ms, tpot_s: 50 ms}
compare:
  reference: static
  variants:
    static: {engine: {batching: static, kv_allocator: contiguous}}
    continuous: {}
thresholds:
  - {variant: continuous, metric: p99_ttft_s, max: 1 s}
"""


def changed(old: str, new: str) -> str:
    """The good scenario with one piece of text replaced."""
    assert GOOD.count(old) == 1, f"{old!r} stands {GOOD.count(old)} times in the good scenario"
    return GOOD.replace(old, new)


def without_compare() -> str:
    """The good scenario as a single run."""
    return GOOD[: GOOD.index("compare:")]


def with_keys(section: str, lines: str) -> str:
    """The single-run scenario with more keys at the beginning of a section."""
    text = without_compare()
    assert f"\n{section}:\n" in text
    return text.replace(f"\n{section}:\n", f"\n{section}:\n{lines}\n")


def workload_of(lines: str) -> str:
    """The single-run scenario with another workload section."""
    begin, end = GOOD.index("workload:"), GOOD.index("engine:")
    return without_compare().replace(GOOD[begin:end], f"workload:\n{lines}\n")


Load = Callable[..., ScenarioFile]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes the text (or bytes) to chat.yaml in an empty folder and loads it."""

    def load_text(text: str | bytes, **arguments: object) -> ScenarioFile:
        path = tmp_path / "chat.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_scenario(path, **arguments)  # type: ignore[arg-type]

    return load_text


def refusal(load: Load, text: str | bytes, **arguments: object) -> ScenarioError:
    """The error of loading the text; no other exception, and no success, will do."""
    with pytest.raises(ScenarioError) as caught:
        load(text, **arguments)
    return caught.value
