"""The three workloads that other simulators were timed on, and what they reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared" / "workloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One timed run: a trace file, an engine, and the figures of others on the same requests."""

    name: str
    file: str
    engine: dict[str, Any]
    model: str
    hardware: str
    num_gpus: int = 1
    repeat: int = 1
    others: tuple[tuple[str, float], ...] = ()  # simulator, simulated requests per wall second

    def scenario(self, folder: Path) -> dict[str, Any]:
        """The scenario, as its YAML would read."""
        trace = {
            "path": str(folder / self.file),
            "format": "csv",
            "columns": {
                "arrival": "arrived_at",
                "prompt_tokens": "num_prefill_tokens",
                "output_tokens": "num_decode_tokens",
            },
            "time_unit": "s",
            "repeat": self.repeat,
        }
        return {
            "schema_version": 1,
            "question": "How fast is the simulator?",
            "kind": "serving",
            "hardware": self.hardware,
            "model": self.model,
            "workload": {"trace": trace},
            "engine": {"batching": "continuous", "block_size": 16, **self.engine},
        }


# Others' figures: measured before this project, on two noisy cores, CPython 3.11.
NORMAL_FILE = "speed_normal_512_256_rate20_n100000.csv.gz"
NORMAL_ENGINE = {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
NORMAL_OTHERS = (
    ("BLIS (Go)", 1040.0),
    ("AISimulate 0.12 dev (Rust)", 10300.0),
    ("inference-lab 0.2.1 (Rust)", 415.0),
)
VIDUR_ENGINE = {"max_num_seqs": 128, "max_num_batched_tokens": 512}
VIDUR_OTHERS = (("Vidur, Sarathi scheduler", 1300.0),)

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="normal_512_256",
            file=NORMAL_FILE,
            engine=NORMAL_ENGINE,
            model="llama-3.1-8b",
            hardware="h100-sxm-80gb",
            others=NORMAL_OTHERS,
        ),
        Benchmark(
            name="normal_512_256_1M",
            file=NORMAL_FILE,
            engine=NORMAL_ENGINE,
            model="llama-3.1-8b",
            hardware="h100-sxm-80gb",
            repeat=10,
            others=NORMAL_OTHERS,
        ),
        Benchmark(
            name="normal_512_256_vllm",
            file=NORMAL_FILE,
            engine={
                **NORMAL_ENGINE,
                "batching": "vllm",
                "enable_prefix_caching": True,
                "async_scheduling": False,
            },
            model="llama-3.1-8b",
            hardware="h100-sxm-80gb",
            others=NORMAL_OTHERS,
        ),
        Benchmark(  # what a scenario gets that says nothing of its engine
            name="normal_512_256_default",
            file=NORMAL_FILE,
            engine={"batching": "vllm"},
            model="llama-3.1-8b",
            hardware="h100-sxm-80gb",
            others=NORMAL_OTHERS,
        ),
        Benchmark(
            name="vidur_fixed_512_128",
            file="trace_fixed512_128_qps6.45_n20000.csv.gz",
            engine=VIDUR_ENGINE,
            model="llama-2-7b",
            hardware="a100-sxm-80gb",
            others=VIDUR_OTHERS,
        ),
        Benchmark(
            name="vidur_lognormal",
            file="trace_lognorm_qps6.45_n20000.csv.gz",
            engine=VIDUR_ENGINE,
            model="llama-2-7b",
            hardware="a100-sxm-80gb",
            others=VIDUR_OTHERS,
        ),
    )
}
