"""Every row of the counted truths beside the project: parameters, layers, KV and state bytes, weights.

Counted by transformers on the meta device and by vLLM 0.33.0's own layers and cache specs
(``../shared/models/README.md``).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import SHARED

from sim.errors import ScenarioError
from sim.model.config import load_model
from sim.model.counts import (
    check_tensor_parallel_size,
    kv_bytes_per_token,
    kv_dtype_bytes,
    num_active_parameters,
    num_parameters,
    state_bytes_per_request,
    state_shapes,
)
from sim.model.matrices import kv_heads_of_gpu
from sim.model.mixers import AttentionShape, Mixer, MlaShape
from sim.model.shape import ModelShape
from sim.model.weights import check_block_split, weight_bytes

Row = dict[str, str]
# Its quantisation file is not beside its config: read as bf16, which a warning says.
UNSAID_FORMAT = "nvidia--NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4"


def rows_of(table: str) -> list[Row]:
    place = SHARED / "models" / table
    if not place.is_file():
        return []
    with place.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def by_model(table: str) -> list[tuple[str, list[Row]]]:
    """The rows of each model; one entry that skips where the table is absent."""
    found: dict[str, list[Row]] = {}
    for row in rows_of(table):
        found.setdefault(row["name"], []).append(row)
    return list(found.items()) or [("absent", [])]


def parametrized(table: str) -> pytest.MarkDecorator:
    cases = by_model(table)
    return pytest.mark.parametrize(("name", "rows"), cases, ids=[name for name, _ in cases])


@cache
def model(folder: Path, name: str) -> ModelShape:
    return load_model(str(folder / "models" / "configs" / f"{name}.json"))


@parametrized("parameters.csv")
def test_parameters_are_the_counted_ones(shared: Path, name: str, rows: list[Row]) -> None:
    shape = model(shared, name)
    for row in rows:
        if row["total"]:
            assert num_parameters(shape) == pytest.approx(int(row["total"]), rel=0.0005)
            assert num_active_parameters(shape) == pytest.approx(int(row["active"]), rel=0.0005)


WITHOUT_ENCODER = [  # their files name an encoder and say none of its sizes
    "meta-llama--Llama-4-Maverick-17B-128E-Instruct",
    "meta-llama--Llama-4-Scout-17B-16E-Instruct",
]


def test_no_more_than_three_configs_are_warned_of(shared: Path) -> None:
    names = [row["name"] for row in rows_of("parameters.csv")]
    assert len(names) == 95
    assert {name for name in names if model(shared, name).notes} == {UNSAID_FORMAT, *WITHOUT_ENCODER}


def specs(shape: ModelShape, tensor_parallel_size: int) -> Counter[tuple[str, ...]]:
    """The cache that each layer keeps, in the words of the table."""
    found: Counter[tuple[str, ...]] = Counter()
    for kind, count in shape.counted_kinds():
        for mixer in kind.mixers:
            for spec in specs_of(mixer, shape, tensor_parallel_size):
                found[spec] += count
    return found


def specs_of(mixer: Mixer, shape: ModelShape, tp: int) -> Iterator[tuple[str, ...]]:
    if isinstance(mixer, AttentionShape):
        if mixer.kv_source is not None:
            return
        kinds = {"full_attention": "Full", "sliding_attention": "SlidingWindow"}
        kind = kinds.get(mixer.layer_type, "ChunkedLocal")
        name = "SlidingWindowSpec" if kind == "SlidingWindow" else f"{kind}AttentionSpec"
        heads = kv_heads_of_gpu(mixer.num_kv_heads, tp)
        sizes = (heads, mixer.head_dim, mixer.v_head_dim, mixer.window or "", mixer.chunk or "")
        yield (name, *map(str, sizes))
    elif isinstance(mixer, MlaShape):
        yield "MLAAttentionSpec", "1", str(mixer.latent_size), "0", "", ""
        if mixer.indexer is not None:
            yield "MLAAttentionSpec", "1", str(mixer.indexer.head_dim + 4), "0", "", ""
    else:
        shapes = state_shapes(mixer, shape.dtype, tp)
        types = ", ".join(f"torch.{dtype}" for _, dtype in shapes)
        yield "MambaSpec", str(tuple(size for size, _ in shapes)), f"({types})"


def spec_in_table(row: Row) -> tuple[str, ...]:
    if row["kind"] == "MambaSpec":
        return row["kind"], row["mamba_shapes"], row["dtype"]
    return tuple(row[key] for key in ("kind", "num_kv_heads", "head_size", "head_size_v", "window", "chunk"))


@parametrized("layers.csv")
def test_every_layer_keeps_what_vllms_own_specs_keep(shared: Path, name: str, rows: list[Row]) -> None:
    shape = model(shared, name)
    for case in {(row["gpu"], row["tp"], row["kv_cache_dtype"]) for row in rows}:
        given = [row for row in rows if (row["gpu"], row["tp"], row["kv_cache_dtype"]) == case]
        expected = Counter({spec_in_table(row): int(row["count"]) for row in given})
        assert specs(shape, int(case[1])) == expected, case


@parametrized("kv.csv")
def test_kv_and_state_bytes_are_exactly_vllms(shared: Path, name: str, rows: list[Row]) -> None:
    shape = model(shared, name)
    for row in rows:
        if not row["kv_bytes_per_token_all_layers"]:
            continue
        tp, dtype = int(row["tp"]), row["kv_cache_dtype"]
        if name == UNSAID_FORMAT:
            dtype = "fp8"  # which only its missing file says
        per_token = kv_bytes_per_token(shape, kv_dtype_bytes(shape, dtype), tp)
        assert per_token == float(row["kv_bytes_per_token_all_layers"]), row
        states = state_bytes_per_request(shape, tensor_parallel_size=tp)
        assert states == float(row["state_bytes_per_sequence"] or 0), row


@parametrized("weights.csv")
def test_weights_are_those_of_vllms_own_layers(shared: Path, name: str, rows: list[Row]) -> None:
    if name == UNSAID_FORMAT:
        assert "NVFP4" in model(shared, name).notes[0]
        return
    shape = model(shared, name)
    for row in rows:
        if row["status"] != "ok" or row["compare"] != "1":
            continue
        kernel = "marlin" if "Marlin" in row["gpu"] else "none"
        found = weight_bytes(shape, tensor_parallel_size=int(row["tp"]), mxfp4_kernel=kernel)  # type: ignore[arg-type]
        assert found == pytest.approx(int(row["weight_bytes_per_gpu"]), rel=0.005), row


def test_splits_are_refused_where_vllm_refuses_them(shared: Path) -> None:
    wrong = []
    for row in rows_of("weights.csv"):
        if row["status"] not in ("ok", "refused") or "back end" in row["note"]:
            continue
        shape = model(shared, row["name"])
        if is_refused(shape, int(row["tp"])) != (row["status"] == "refused"):
            wrong.append((row["name"], row["tp"]))
    assert wrong == []


def is_refused(shape: ModelShape, tensor_parallel_size: int) -> bool:
    try:
        check_tensor_parallel_size(shape, tensor_parallel_size)
        check_block_split(shape, tensor_parallel_size)
    except ScenarioError:
        return True
    return False


@pytest.mark.parametrize(
    ("name", "logged_gib"), [("openai--gpt-oss-120b", 64.38), ("openai--gpt-oss-20b", 13.47)]
)
def test_experts_in_mxfp4_load_as_tritons_logs_say(shared: Path, name: str, logged_gib: float) -> None:
    found = weight_bytes(model(shared, name), mxfp4_kernel="triton") / 2**30
    assert found == pytest.approx(logged_gib, rel=0.005)
