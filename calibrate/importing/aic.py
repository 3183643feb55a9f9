"""AIConfigurator's Parquet tables to a price table of one model: its shapes looked up among theirs.

Between the measured (n, k) of GEMMs and the measured head counts of attention the profile's law stands in
for the ratio: time = measured at the nearest shape · law(shape) / law(nearest shape). Norms and activations
are not in the tables: they are priced by the device's profile. Chunks with history come from the law over
the nearest fresh prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calibrate.importing.table_writing import Measured, Row
from calibrate.kernel_fits import law_of, predict
from calibrate.kernel_timings import AIC_GPUS, NEVER_HOT, KernelTimings
from calibrate.timed_kernels import all_timings
from sim.errors import ScenarioError
from sim.hardware import HardwareProfile, load_hardware
from sim.hardware.laws.device import Floats
from sim.model.config import load_model
from sim.model.counts import kv_heads_per_gpu
from sim.model.matrices import layer_matrices
from sim.model.shape import ModelShape
from sim.price.providers.analytic import AnalyticTimes
from sim.price.providers.table import SHAPE_KEYS
from sim.serving.scenario import EngineConfig, Scenario, Workload

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
SEQUENCES = (1, 4, 16, 64, 128, 256, 512)
CONTEXTS = (16, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
CHUNKS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def read_aic(folder: Path, model: str, gpu: str, tensor_parallel_size: int) -> Measured:
    """The tables of ``folder`` (it has ``kernels/aic``) for one model on one GPU, in bfloat16."""
    names = {theirs: ours for ours, theirs in AIC_GPUS.items()}
    if gpu not in names or not model:
        raise ScenarioError("say --gpu and --model", given=f"{gpu} {model}", allowed=", ".join(names))
    if not (folder / "kernels" / "aic").is_dir():
        raise ScenarioError(
            "no kernels/aic in this folder", given=str(folder), hint="the folder above kernels/aic"
        )
    shape, hardware = load_model(model), load_hardware(names[gpu])
    timings = {one.operator: one for one in all_timings(folder, hardware.name)}
    return Measured(
        device=hardware.name,
        model=shape.name,
        tensor_parallel_size=tensor_parallel_size,
        shape={name: int(getattr(shape, name)) for name in SHAPE_KEYS},
        calls={**dict.fromkeys(matrix_names(shape, tensor_parallel_size), 1), "norm_elementwise": 1},
        source=f"AIConfigurator tables, {gpu}: {timings['gemm_bfloat16'].what}",
        per_token=list(dense_rows(shape, hardware, timings["gemm_bfloat16"], tensor_parallel_size)),
        per_sequence=list(head_rows(shape, timings["gemm_bfloat16"], hardware, tensor_parallel_size)),
        attention=list(attention_rows(shape, hardware, timings, tensor_parallel_size)),
        notes="nearest measured shapes, scaled by the profile's kernel laws",
    )


def matrix_names(shape: ModelShape, tensor_parallel_size: int) -> list[str]:
    """The projections of a layer."""
    return [one.name for one in layer_matrices(shape, tensor_parallel_size) if one.name != "lm_head"]


def scaled(
    timings: KernelTimings, hardware: HardwareProfile, wanted: dict[str, Floats], keys: tuple[str, ...]
) -> Floats:
    """The measured time nearest in ``keys`` (log distance), times the law's ratio to the wanted sizes."""
    constants = hardware.kernels[timings.operator].constants
    known = np.log(np.stack([np.maximum(timings.sizes[key], 1.0) for key in keys], axis=1))
    goal = np.log(np.stack([np.maximum(wanted[key], 1.0) for key in keys], axis=1))
    nearest = np.array([int(np.argmin(np.abs(known - one).sum(axis=1))) for one in goal])
    chosen = timings.where(np.isin(np.arange(len(known)), nearest))
    order = {row: i for i, row in enumerate(sorted(set(nearest.tolist())))}
    rows = np.array([order[row] for row in nearest.tolist()])
    own = law_of(timings.operator).seconds(wanted, constants, timings.device)
    theirs = predict(chosen, constants)[rows]
    result: Floats = chosen.measured_s[rows] * own / theirs
    return result


def gemm_times(
    timings: KernelTimings, hardware: HardwareProfile, n: int, k: int, counts: tuple[int, ...]
) -> Floats:
    """(m × k) · (k × n) for every m of ``counts``."""
    ones = np.ones(len(counts))
    wanted = {"m": np.array(counts, dtype=float), "n": n * ones, "k": k * ones}
    wanted |= {"weight_bits": 16 * ones, "value_bytes": 2 * ones, "copies": NEVER_HOT * ones}
    return scaled(timings, hardware, wanted, ("m", "n", "k"))


def dense_rows(
    shape: ModelShape, hardware: HardwareProfile, timings: KernelTimings, tensor_parallel_size: int
) -> Iterator[Row]:
    """A layer's projections, and norms and activations from the profile."""
    for matrix in layer_matrices(shape, tensor_parallel_size):
        if matrix.name != "lm_head":
            times = gemm_times(timings, hardware, matrix.n, matrix.k, TOKENS)
            yield from ((matrix.name, size, float(time)) for size, time in zip(TOKENS, times, strict=True))
    scenario = Scenario(
        schema_version=1,
        question="norms",
        kind="serving",
        hardware=hardware,
        model=shape,
        workload=Workload(),
        engine=EngineConfig(batching="continuous", tensor_parallel_size=tensor_parallel_size),
    )
    norms = AnalyticTimes(scenario).linear_s(np.array(TOKENS, dtype=float))["norm_elementwise"]
    layers = shape.num_hidden_layers
    yield from (
        ("norm_elementwise", size, float(time) / layers) for size, time in zip(TOKENS, norms, strict=True)
    )


def head_rows(
    shape: ModelShape, timings: KernelTimings, hardware: HardwareProfile, tensor_parallel_size: int
) -> Iterator[Row]:
    """The vocabulary projection."""
    for matrix in layer_matrices(shape, tensor_parallel_size):
        if matrix.name == "lm_head":
            times = gemm_times(timings, hardware, matrix.n, matrix.k, SEQUENCES)
            yield from (("lm_head", size, float(time)) for size, time in zip(SEQUENCES, times, strict=True))


def attention_rows(
    shape: ModelShape, hardware: HardwareProfile, timings: dict[str, KernelTimings], tensor_parallel_size: int
) -> Iterator[Row]:
    """Prompt chunks by themselves and decodes by themselves."""
    heads = {
        "heads": shape.num_attention_heads / tensor_parallel_size,
        "kv_heads": float(kv_heads_per_gpu(shape, tensor_parallel_size)),
        "head_dim": float(shape.head_dim),
        "kv_bytes": 2.0,
    }
    keys = ("heads", "kv_heads", "head_dim", "sequences")
    pairs = [(chunk, cached) for chunk in CHUNKS for cached in (0, *CONTEXTS)]
    wanted = {name: np.full(len(pairs), value) for name, value in (heads | {"sequences": 1.0}).items()}
    wanted |= {
        "queries": np.array([a for a, _ in pairs], float),
        "cached": np.array([b for _, b in pairs], float),
    }
    times = scaled(timings["attention_prefill"], hardware, wanted, (*keys, "queries"))
    yield from ((*pair, 0, 0, float(time)) for pair, time in zip(pairs, times, strict=True))
    pairs = [(count, context) for count in SEQUENCES for context in CONTEXTS]
    wanted = {name: np.full(len(pairs), value) for name, value in heads.items()}
    wanted |= {
        "sequences": np.array([a for a, _ in pairs], float),
        "context": np.array([b for _, b in pairs], float),
        "copies": np.full(len(pairs), NEVER_HOT),
    }
    times = scaled(timings["attention_decode"], hardware, wanted, (*keys, "context"))
    yield from ((0, 0, *pair, float(time)) for pair, time in zip(pairs, times, strict=True))
