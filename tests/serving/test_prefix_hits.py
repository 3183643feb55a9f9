"""How much the prefix cache finds: against a count of the trace's own hash ids, and over the pool's size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sim.kinds.load import load_scenario
from sim.kinds.run import run_one

SCENARIO = Path(__file__).parents[2] / "scenarios" / "serving" / "prefix_cache_size.yaml"
SAMPLE = SCENARIO.parent / "traces" / "mooncake_layout_synthetic.jsonl"
BLOCK = 512


def hit_fraction(*overrides: str, trace: Path | None = None) -> float:
    file = load_scenario(SCENARIO, overrides=list(overrides), trace=str(trace) if trace else None)
    requests = run_one(file.base, base_dir=SCENARIO.parent).requests
    assert (requests.first_scheduled_ps >= 0).all()
    return float(requests.cached_tokens.sum() / requests.prompt_tokens.sum())


def counted_fraction(trace: Path) -> float:
    """Of a cache that forgets nothing: each prompt's first blocks that an earlier prompt had.

    A prompt's last token is always computed, so its last block does not count when the prompt fills it.
    """
    text = gzip.decompress(trace.read_bytes()) if trace.suffix == ".gz" else trace.read_bytes()
    seen: set[int] = set()
    found = asked = 0
    for row in map(json.loads, text.splitlines()):
        length, ids = row["input_length"], row["hash_ids"]
        hits = 0
        while hits < (length - 1) // BLOCK and ids[hits] in seen:
            hits += 1
        seen.update(ids[: length // BLOCK])
        found += hits * BLOCK
        asked += length
    return found / asked


def test_a_pool_that_never_evicts_finds_what_the_trace_repeats() -> None:
    assert hit_fraction("engine.num_gpu_blocks_override=100000") == counted_fraction(SAMPLE)


def test_the_conversation_trace_has_its_known_hits(shared: Path) -> None:
    trace = shared / "traces" / "mooncake_conversation.jsonl.gz"
    known = hit_fraction("engine.num_gpu_blocks_override=1000000", trace=trace)
    assert known == pytest.approx(0.373, abs=0.001)
    assert known == counted_fraction(trace)


def test_it_falls_as_the_pool_shrinks() -> None:
    pools = (130, 200, 400, 1000)
    found = [
        hit_fraction("engine.max_model_len=65536", f"engine.num_gpu_blocks_override={blocks}")
        for blocks in pools
    ]
    assert found == sorted(found)
    assert found[0] < 0.75 * found[-1]
