"""Times the price of a step by itself: microseconds per priced step and per skipped jump, by kind of price.

Warm tables, as an engine meets them: steps of 64 decodes and a prompt, contexts and prompt lengths that
differ from call to call. ``first_ms`` is what the first such step costs, which makes the tables.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.model.config import load_model
from sim.price.overheads import LaunchedPrice
from sim.price.pipeline import PipelinePrice
from sim.price.providers.table import table_price
from sim.price.step import CompiledPrice
from sim.serving.scenario import EngineConfig, Scenario, Workload

MEASURED = Path(__file__).parents[2] / "shared" / "measured" / "serving" / "rtx4090_llama-3.1-8b"
CALLS = 2_000
REPEATS = 7
DECODES = 64
LAUNCHED = EngineOverheads(step_s=1e-3, launch_per_layer_s=1e-4, cudagraph_capture_sizes=(64, 128, 256))


def scenario(hardware: str = "h100-sxm-80gb", **engine: Any) -> Scenario:
    """Llama-3.1-8B on one kind of GPU."""
    return Scenario(
        schema_version=1, question="", kind="serving", hardware=load_hardware(hardware),
        model=load_model("llama-3.1-8b"), workload=Workload(),
        engine=EngineConfig(**{"batching": "continuous", **engine}),
    )  # fmt: skip


def prices() -> Iterator[tuple[str, CompiledPrice]]:
    """Every kind of price, by name; measured tables where the measurements are at hand."""
    yield "analytic", CompiledPrice(scenario())
    yield "launched (CUDA graphs, host time)", LaunchedPrice(scenario(overheads=LAUNCHED))
    yield "pipeline of 4 stages", PipelinePrice(scenario(batching="vllm", pipeline_parallel_size=4))
    if not MEASURED.is_dir():
        print(f"no measured tables: {MEASURED.name} is not beside the checkout")
        return
    from calibrate.commands import main as calibrate

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            calibrate(["import", "llmservingsim", str(MEASURED / "profile"), str(Path(folder) / "table")])
        yield "measured tables", table_price(scenario("rtx-4090", price_table="table"), Path(folder))


def print_prices() -> None:
    """The table."""
    print("\n| price | us per priced step | us per skipped jump | first_ms |\n| --- | ---: | ---: | ---: |")
    for name, price in prices():
        print(row(name, price))


def row(name: str, price: CompiledPrice) -> str:
    """One kind of price as a line of the table."""
    start = time.perf_counter()
    price.step_ps(DECODES, 40_000, [(512, 0, True, None)])
    first_ms = 1e3 * (time.perf_counter() - start)
    steps = [(40_000 + 7 * i, [(256 + i % 512, 0, True, None)]) for i in range(CALLS)]
    jumps = [40_000 + 7 * i for i in range(CALLS)]
    step_us = best_us(lambda: [price.step_ps(DECODES, at, chunks) for at, chunks in steps])
    jump = "every step by itself"
    if not isinstance(price, PipelinePrice):
        jump = f"{best_us(lambda: [price.decode_run(DECODES, at) for at in jumps]):.2f}"
    return f"| {name} | {step_us:.2f} | {jump} | {first_ms:.0f} |"


def best_us(many: Callable[[], object]) -> float:
    """Best microseconds of one of the ``CALLS`` calls that ``many`` makes; process time, after warming up."""
    many()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        many()
        best = min(best, time.process_time() - start)
    return 1e6 * best / CALLS
