"""Draw the synthetic sample traces of ``scenarios/serving/traces``: ``python tools/sample_traces.py``."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from sim.rng import stream

TRACES = Path(__file__).parent.parent / "scenarios" / "serving" / "traces"


def lognormal_tokens(rng: np.random.Generator, mean: float, sigma: float, size: int) -> list[int]:
    """Token counts, at least 1, with about that mean."""
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, size)
    return [max(1, round(value)) for value in drawn.tolist()]


def azure_layout(num_requests: int = 1500, requests_per_s: float = 5.0) -> str:
    """A CSV in the layout of Azure's 2023 trace; the year 2000 marks it as made up."""
    rng = stream(1, "azure layout")
    times_s = np.cumsum(rng.exponential(1 / requests_per_s, num_requests)).tolist()
    prompts = [min(n, 12_000) for n in lognormal_tokens(rng, 1000, 0.9, num_requests)]
    answers = [min(n, 1_500) for n in lognormal_tokens(rng, 210, 0.8, num_requests)]
    start = datetime(2000, 1, 1)
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for time_s, prompt, answer in zip(times_s, prompts, answers, strict=True):
        when = start + timedelta(seconds=time_s)
        lines.append(f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond:06d}0,{prompt},{answer}")
    return "\n".join(lines) + "\n"


def mooncake_layout(num_sessions: int = 400, sessions_per_s: float = 0.12) -> str:
    """JSON lines in Mooncake's layout: all prompts share one block, a session's turns share more."""
    rng = stream(1, "mooncake layout")
    rows: list[dict[str, object]] = []
    next_id = 1
    for start_s in np.cumsum(rng.exponential(1 / sessions_per_s, num_sessions)).tolist():
        hash_ids, time_s = [0], start_s
        for new_tokens in lognormal_tokens(rng, 4000, 0.8, int(rng.integers(1, 6))):
            num_new = max(1, min(new_tokens, 20_000) // 512)
            hash_ids = [*hash_ids, *range(next_id, next_id + num_new)]
            next_id += num_new
            rows.append(
                {
                    "timestamp": round(time_s * 1000),
                    "input_length": 512 * len(hash_ids) - int(rng.integers(0, 512)),
                    "output_length": min(lognormal_tokens(rng, 340, 0.7, 1)[0], 2000),
                    "hash_ids": hash_ids,
                }
            )
            time_s += 5 + float(rng.exponential(25))
    rows.sort(key=lambda row: str(row["timestamp"]).zfill(12))
    return "".join(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    (TRACES / "azure_layout_synthetic.csv").write_text(azure_layout(), encoding="utf-8")
    (TRACES / "mooncake_layout_synthetic.jsonl").write_text(mooncake_layout(), encoding="utf-8")
