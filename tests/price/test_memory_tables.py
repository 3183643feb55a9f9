"""Every row that vLLM 0.33's planner computed from real configs, and every logged start of 0.11 to 0.19.

The tables lie beside the project. A row's failure names the row.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile, load_hardware
from sim.model.config import load_model
from sim.model.shape import ModelShape
from sim.price.memory import check_length, memory_plan
from sim.price.memory_words import MemoryPlan
from sim.serving.scenario import EngineConfig

GIB = 2**30
Row = Mapping[str, str]
KINDS = {
    "FullAttentionSpec": "full",
    "MLAAttentionSpec": "full",
    "SlidingWindowSpec": "sliding",
    "ChunkedLocalAttentionSpec": "chunked",
    "MambaSpec": "state",
}
DEVICES = {"H100": "h100-sxm-80gb", "B200": "b200-sxm-180gb", "RTX 3090": "rtx-3090"}
MODELED = ("0.11.0", "0.15.0", "0.16.0", "0.17.0", "0.18.0", "0.19.0")


def rows_of(name: str) -> list[dict[str, str]]:
    """The table, or nothing where it is not there: ``shared`` then skips."""
    path = Path(__file__).parents[3] / "shared" / "models" / name
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []


@lru_cache(maxsize=4)
def model_of(path: Path) -> ModelShape:
    return load_model(str(path))


# --- kv.csv ---

KV_ROWS = rows_of("kv.csv")
KV_MODELS = sorted({row["name"] for row in KV_ROWS}) or ["no table"]


def planned(row: Row, folder: Path) -> MemoryPlan:
    model, device = model_of(folder / f"{row['name']}.json"), load_hardware(DEVICES[row["gpu"]])
    engine = EngineConfig(
        tensor_parallel_size=int(row["tp"]),
        kv_cache_dtype=row["kv_cache_dtype"],  # type: ignore[arg-type]
        max_model_len=int(row["max_model_len"]),
        kv_cache_memory_bytes=int(row["available_gib"]) * GIB,
    ).on(device)
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (
        int(row["max_num_seqs"]),
        int(row["max_num_batched_tokens"]),
    )
    return memory_plan(model, device, engine)


def differences(row: Row, folder: Path) -> Iterator[str]:
    """What is not as vLLM's planner has it."""
    try:
        plan = planned(row, folder)
    except ScenarioError as error:
        if row["started"] == "1" or error.path != "engine.max_model_len":
            yield f"refused: {error.problem}"
        elif f"needs {float(row['note'].split()[-2]):.2f} GiB" not in error.problem:
            yield error.problem
        return
    if row["started"] == "0":
        yield "not refused"
        return
    theirs = sorted(
        (KINDS[name.split("x", 1)[1]], int(name.split("x", 1)[0]), int(block))
        for name, block in (
            (one.split("@")[0], one.split("@")[1].split(":")[0]) for one in row["groups"].split(";")
        )
    )
    own = {
        "groups": sorted((group.kind, group.num_layers, group.block_size) for group in plan.groups),
        "num_gpu_blocks": plan.num_gpu_blocks,
        "kv_tokens": plan.kv_budget_tokens,
        "concurrency": round(plan.max_concurrency, 4),
        "state_bytes_per_sequence": plan.state_bytes_per_sequence,
    }
    expected = {
        "groups": theirs,
        "num_gpu_blocks": int(row["num_gpu_blocks"]),
        "kv_tokens": int(row["kv_tokens"]),
        "concurrency": float(row["concurrency"]),
        "state_bytes_per_sequence": int(row["state_bytes_per_sequence"]),
    }
    for name, value in expected.items():
        if own[name] != value:
            yield f"{name} {own[name]} for {value}"


# The table kept its KV in FP8, of which neither its config nor a file beside it says anything.
UNEXPLAINED = {"nvidia--NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4"}


@pytest.mark.parametrize("name", KV_MODELS)
def test_groups_blocks_tokens_and_concurrency_of_every_row(shared: Path, name: str) -> None:
    rows = [row for row in KV_ROWS if row["name"] == name]
    wrong = [
        f"TP {row['tp']} {row['kv_cache_dtype']} {row['max_model_len']} on {row['gpu']}: {what}"
        for row in rows
        for what in differences(row, shared / "models" / "configs")
    ]
    if name in UNEXPLAINED:
        assert all(" auto " in one for one in wrong)
        return
    assert rows and not wrong, wrong[:4]


# --- startups.csv ---

# Names of the table that are another config's shape; of the rest a config has the name. Two quantised
# checkpoints whose own config is not there differ in bytes of weights only.
SAME_SHAPE = {
    "llama-3.1-8b-instruct": "meta-llama--Meta-Llama-3.1-8B",
    "meta-llama-3-8b": "meta-llama--Meta-Llama-3.1-8B",
    "mixtral-8x7b-instruct-v0.1": "mistralai--Mixtral-8x7B-v0.1",
    "llama-3.3-70b-instruct-fp8-dynamic": "written--llama-3.3-70b-fp8-dynamic",
    "mistral-small-3.2-24b-instruct-2506": "written--mistral-small-3.2",
    "mistral-small-3.1-24b-instruct-2503": "written--mistral-small-3.2",
    "deepseek-v2-lite-chat": "inference-sim--deepseek-v2-lite",
    "qwen3-14b": "inference-sim--qwen3-14b",
}
WITHOUT_CONFIG: Mapping[str, Any] = {
    "codellama-7b-hf": {"base": "llama-2-7b", "vocab_size": 32016, "max_position_embeddings": 16384},
    "granite-3.1-8b-instruct": "ibm-granite--granite-3.3-8b-instruct",
    "gemma-7b": {
        "model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
    },
    "phi-2": {
        "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 51200, "max_position_embeddings": 2048,
        "torch_dtype": "float16",
    },
}  # fmt: skip


def shape_of(row: Row, folder: Path) -> ModelShape | None:
    """The model of a start; None where neither a config nor its sizes are there."""
    name = row["model"].split("/")[1].lower()
    known = WITHOUT_CONFIG.get(name)
    if isinstance(known, Mapping):
        return load_model(known)
    files = {
        path.stem.split("--", 1)[1].lower(): path
        for path in folder.glob("*.json")
        if not path.name.endswith("hf_quant_config.json")
    }
    named = known or SAME_SHAPE.get(name)
    path = folder / f"{named}.json" if named else files.get(name)
    return model_of(path) if path else None


def device_of(row: Row) -> HardwareProfile:
    hardware = load_hardware(DEVICES[row["gpu"]])
    return replace(hardware, hbm_bytes=int(float(row["gpu_gib"]) * GIB))


def engine_of(row: Row, device: HardwareProfile) -> EngineConfig:
    given: dict[str, Any] = {
        name: int(row[name])
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
        if row[name]
    }
    dtypes = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
    given |= {"dtype": dtypes[row["dtype"]]} if row["dtype"] in dtypes else {}
    given |= {"kv_cache_dtype": row["kv_dtype"]} if row["kv_dtype"] else {}
    return EngineConfig(
        vllm_version=row["vllm"],
        gpu_memory_utilization=float(row["utilization"]),
        tensor_parallel_size=int(row["tp"]),
        pipeline_parallel_size=int(row["pp"]),
        **given,
    ).on(device)


STARTS = [row for row in rows_of("startups.csv") if row["vllm"] in MODELED]
MEASURED = [row for row in STARTS if row["started"] == "1"]


def named(row: Row) -> str:
    words = ("vllm", "model", "tp", "pp", "quant", "dtype", "max_model_len")
    return " ".join(row.get(word, "no table") for word in words)


def part(plan: MemoryPlan, label: str) -> float:
    return next(-line.num_bytes for line in plan.lines if line.label == label) / GIB


def kv_errors(folder: Path) -> Iterator[tuple[float, float, str]]:
    """(share, GiB, row) of every start that logged its KV."""
    for row in MEASURED:
        model = shape_of(row, folder) if row["kv_gib"] else None
        if model is not None:
            device = device_of(row)
            plan, logged = memory_plan(model, device, engine_of(row, device)), float(row["kv_gib"])
            off = abs(plan.kv_budget_bytes / GIB - logged)
            yield off / logged, off, named(row)


def test_kv_of_the_measured_starts(shared: Path) -> None:
    errors = list(kv_errors(shared / "models" / "configs"))
    assert len(errors) >= 30
    assert statistics.median(share for share, _, _ in errors) < 0.03
    far = [row for share, gib, row in errors if share > 0.08 and gib > 0.5]
    # Its peak is unexplained (below): without its vision encoder's weights that was half hidden.
    assert far == ["0.11.0 mistralai/Mistral-Small-3.2-24B-Instruct-2506 1 1 none bf16 16000"]


CONFIGS = Path(__file__).parents[3] / "shared" / "models" / "configs"
EXPLAINED = [
    row
    for row in MEASURED
    if row["activation_gib"] and "Mistral-Small-3.2" not in row["model"] and shape_of(row, CONFIGS)
]


@pytest.mark.parametrize("row", EXPLAINED or [{}], ids=named)
def test_parts_of_the_measured_starts(shared: Path, row: Row) -> None:
    """Activation peak within 0.2 GiB, growth outside of PyTorch within 0.22 (two Granites have 0.21 more).

    An encoder's run is not modelled (gemma-3, Mistral-Small, Scout, granite-vision), nor int8's quantised
    activations. Mistral-Small 3.2 under 0.11 took 2.1 GiB where seven others sort: 38 B a logit are 4.8.
    """
    model = shape_of(row, shared / "models" / "configs")
    assert model is not None
    device = device_of(row)
    engine = engine_of(row, device)
    plan = memory_plan(model, device, engine)
    if engine.pipeline_parallel_size == 1:
        assert part(plan, "activation peak") == pytest.approx(float(row["activation_gib"]), abs=0.2)
    assert part(plan, "outside of PyTorch") == pytest.approx(float(row["non_torch_gib"]), abs=0.22)


FAILED = [
    row
    for row in rows_of("startups.csv")
    if row["started"] == "0" and row["vllm"] in (*MODELED, "0.6.x") and "gpt-oss" not in row["model"]
]


@pytest.mark.parametrize("row", FAILED or [{}], ids=named)
def test_starts_that_failed_are_refused(shared: Path, row: Row) -> None:
    model = shape_of(row, shared / "models" / "configs")
    assert model is not None
    device = device_of(row)
    engine = engine_of(row, device)
    with pytest.raises(ScenarioError):
        check_length(model, engine)
        memory_plan(model, device, engine)


def test_starts_that_ran_out_of_memory_in_the_warm_up_are_warned_of(shared: Path) -> None:
    rows = [row for row in STARTS if row["started"] == "0" and "gpt-oss" in row["model"]]
    for row in rows:
        model, device = shape_of(row, shared / "models" / "configs"), device_of(row)
        assert model is not None
        plan = memory_plan(model, device, engine_of(row, device))
        assert any("warm-up" in warning for warning in plan.warnings), named(row)
    assert len(rows) == 2


def test_no_start_that_ran_is_warned_of(shared: Path) -> None:
    """Neither the large vocabularies of Gemma at a share of 0.95, nor tensor and pipeline parallelism."""
    warned, seen = [], 0
    for row in MEASURED:
        model, device = shape_of(row, shared / "models" / "configs"), device_of(row)
        if model is not None:
            seen += 1
            plan = memory_plan(model, device, engine_of(row, device))
            warned += [f"{named(row)}: {warning}" for warning in plan.warnings]
    assert seen >= 45 and not warned


def test_the_start_of_0_6_that_ran_is_not_refused(shared: Path) -> None:
    """Llama-3.1-8B on an RTX 3090 at 20,000 tokens: 31,232 tokens of KV were logged."""
    row = next(row for row in rows_of("startups.csv") if row["vllm"] == "0.6.x" and row["started"] == "1")
    model, device = shape_of(row, shared / "models" / "configs"), device_of(row)
    assert model is not None
    plan = memory_plan(model, device, engine_of(row, device))
    assert part(plan, "activation peak") == pytest.approx(float(row["activation_gib"]), abs=0.02)
    assert plan.kv_budget_tokens == pytest.approx(int(row["kv_tokens"]), rel=0.08)


@pytest.mark.parametrize("name", ["gemma-3-4b", "gemma-3-12b", "gemma-3-27b"])
def test_weights_of_gemma_3_have_its_encoder_and_both_rotary_tables(shared: Path, name: str) -> None:
    """0.19 logged 8.58, 23.31 and 51.46 GiB, the text parts are 7.23, 21.92 and 50.31."""
    row = next(row for row in MEASURED if row["model"] == f"google/{name}-it")
    device, model = device_of(row), load_model(name)
    weights = part(memory_plan(model, device, engine_of(row, device)), "weights")
    assert weights == pytest.approx(float(row["weights_gib"]), rel=0.0025)
