"""What is timed: runs in this process, and whole commands as a user types them.

Some runs are those that other simulators were timed on, with what they reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared" / "workloads"
TRACES = Path(__file__).parents[2] / "shared" / "traces"

YARDSTICK = "normal_512_256"  # `continuous`: what the others are shares of


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One timed run: a trace file or a drawn workload, an engine, others' figures on the same requests."""

    name: str
    engine: Mapping[str, Any]
    file: str = ""  # of the shared workloads; without one ``workload`` is drawn
    workload: Mapping[str, Any] = field(default_factory=dict)
    model: str = "llama-3.1-8b"
    hardware: str = "h100-sxm-80gb"
    top: Mapping[str, Any] = field(default_factory=dict)  # replicas, routing
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
            "workload": {"trace": trace} if self.file else dict(self.workload),
            "engine": dict(self.engine),
            **self.top,
        }


# Others' figures: measured before this project, on two noisy cores, CPython 3.11.
NORMAL_FILE = "speed_normal_512_256_rate20_n100000.csv.gz"
NORMAL_ENGINE = {
    "batching": "continuous",
    "block_size": 16,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
}
NORMAL_OTHERS = (
    ("BLIS (Go)", 1040.0),
    ("AISimulate 0.12 dev (Rust)", 10300.0),
    ("inference-lab 0.2.1 (Rust)", 415.0),
)
VIDUR_ENGINE = {
    "batching": "continuous",
    "block_size": 16,
    "max_num_seqs": 128,
    "max_num_batched_tokens": 512,
}
VIDUR_DEVICE = {"model": "llama-2-7b", "hardware": "a100-sxm-80gb"}
VIDUR_OTHERS = (("Vidur, Sarathi scheduler", 1300.0),)


def drawn(requests_per_s: float, num_requests: int, **more: Any) -> dict[str, Any]:
    """Lengths like those of ``normal_512_256``, from a distribution."""
    return {
        "arrivals": {"process": "poisson", "requests_per_s": requests_per_s},
        "prompt_tokens": {"distribution": "normal", "mean": 512, "stddev": 256, "min": 1},
        "output_tokens": {"distribution": "normal", "mean": 256, "stddev": 128, "min": 1},
        "num_requests": num_requests,
        **more,
    }


def ranked(requests_per_s: float, num_requests: int) -> dict[str, Any]:
    """The same, a third of them ahead of the others."""
    lengths = drawn(requests_per_s, num_requests)
    each = {name: lengths.pop(name) for name in ("prompt_tokens", "output_tokens")}
    urgent, patient = ({"share": share, "priority": rank, **each} for share, rank in ((1, 0), (2, 1)))
    return {**lengths, "classes": {"urgent": urgent, "patient": patient}}


# 20 groups with 2,048 tokens in common, before 512 of one's own: four fifths of the prompt tokens are found.
PREFIXES = {"shared_prefix": {"num_groups": 20, "prefix_tokens": 2048}}
SESSIONS = {"sessions": {"turns": 6, "think_time_s": {"distribution": "exponential", "mean": "20 s"}}}
DRAFTS = {"num_speculative_tokens": 4, "acceptance_rate": 0.6}
SYNCHRONOUS = {"async_scheduling": False}

_RUNS = (
    Benchmark(name=YARDSTICK, file=NORMAL_FILE, engine=NORMAL_ENGINE, others=NORMAL_OTHERS),
    # What a scenario gets that says nothing of its engine.
    Benchmark(name="default", file=NORMAL_FILE, engine={}, others=NORMAL_OTHERS),
    Benchmark(name="default_1M", file=NORMAL_FILE, engine={}, repeat=10, others=NORMAL_OTHERS),
    Benchmark(
        name="vllm_sync_caching",
        file=NORMAL_FILE,
        engine={
            **NORMAL_ENGINE,
            **SYNCHRONOUS,
            "batching": "vllm",
            "enable_prefix_caching": True,
        },
        others=NORMAL_OTHERS,
    ),
    Benchmark(
        name="drafts",
        workload=drawn(20, 20_000),
        engine={**SYNCHRONOUS, "max_num_seqs": 256, "speculative": DRAFTS},
    ),
    Benchmark(name="prefixes", workload=drawn(10, 20_000, **PREFIXES), engine={}),
    Benchmark(name="prefixes_sync", workload=drawn(10, 20_000, **PREFIXES), engine=SYNCHRONOUS),
    Benchmark(name="priorities", workload=ranked(20, 20_000), engine={"policy": "priority"}),
    Benchmark(name="timeouts", workload=drawn(20, 20_000, timeout_s="60 s"), engine={}),
    Benchmark(name="sessions", workload=drawn(3, 20_000, **SESSIONS), engine={}),
    Benchmark(
        name="replicas_4",
        workload=drawn(80, 100_000),
        engine={},
        top={"replicas": 4, "routing": "least_loaded"},
    ),
    Benchmark(
        name="replicas_64",
        workload=drawn(1280, 1_000_000),
        engine={},
        top={"replicas": 64, "routing": "least_loaded"},
    ),
    Benchmark(
        name="vidur_fixed_512_128",
        file="trace_fixed512_128_qps6.45_n20000.csv.gz",
        engine=VIDUR_ENGINE,
        others=VIDUR_OTHERS,
        **VIDUR_DEVICE,
    ),
    Benchmark(
        name="vidur_lognormal",
        file="trace_lognorm_qps6.45_n20000.csv.gz",
        engine=VIDUR_ENGINE,
        others=VIDUR_OTHERS,
        **VIDUR_DEVICE,
    ),
)
BENCHMARKS = {one.name: one for one in _RUNS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A whole command, from the start of Python to the last file: what a user waits for."""

    name: str
    words: tuple[str, ...]  # after ``gpuyard``; {traces} and {here} are folders
    trace: str = ""  # of the shared traces, without which it is left out


SWEEP = "workload.arrivals.requests_per_s=" + ",".join(f"{rate / 10:g}" for rate in range(10, 135))
_COMMANDS = (
    Command(name="start-up: --help", words=("--help",)),
    Command(name="start-up: list hardware", words=("list", "hardware")),
    Command(name="smallest run with report", words=("run", "{here}/smallest.yaml")),
    Command(name="static_vs_continuous with report", words=("run", "serving/static_vs_continuous")),
    Command(
        name="Mooncake's trace with report",
        words=(
            "run",
            "serving/mooncake_conversation",
            "--trace",
            "{traces}/mooncake_conversation.jsonl.gz",
        ),
        trace="mooncake_conversation.jsonl.gz",
    ),
    Command(
        name="Azure's trace with report",
        words=("run", "serving/azure_conversation", "--trace", "{traces}/azure2023_conv.csv.gz"),
        trace="azure2023_conv.csv.gz",
    ),
    Command(
        name="sweep of 500 points of 200 requests",
        words=("sweep", "{here}/sweep.yaml", "--over", SWEEP, "--over", "engine.max_num_seqs=32,64,128,256"),
    ),
    Command(name="training/scaling_1024", words=("run", "training/scaling_1024")),
    Command(name="training/one_slow_gpu", words=("run", "training/one_slow_gpu")),
)
COMMANDS = {one.name: one for one in _COMMANDS}


def files() -> dict[str, dict[str, Any]]:
    """The scenario files that the commands name ({here}): a default engine, 100 and 200 requests."""
    smallest = Benchmark(name="smallest", engine={}, workload=drawn(8, 100)).scenario(Path())
    swept = Benchmark(name="sweep", engine={}, workload=drawn(8, 200)).scenario(Path())
    swept["slo"] = {"ttft_s": "500 ms", "tpot_s": "50 ms"}
    return {"smallest.yaml": smallest, "sweep.yaml": swept}
