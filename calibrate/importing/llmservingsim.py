"""LLMServingSim's profile folders: ``meta.yaml`` and per degree ``tpN/{dense,per_sequence,attention}.csv``.

``dense.csv`` times one call by tokens; a decoder layer calls ``layernorm`` twice (before attention and before
the MLP), ``embedding`` and ``final_layernorm`` once in a step. ``moe.csv`` times the whole block by tokens
and by how many experts they hit: it is read at as many as evenly likely experts are hit.

Not read: ``skew_fit.csv`` (decodes of unequal context are priced at their mean), linear attention, drafts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from calibrate.importing.table_writing import Measured, Row
from sim.errors import ScenarioError
from sim.hardware.laws.gemm import experts_hit

CALLS_PER_LAYER = {"layernorm": 2, "embedding": 0, "final_layernorm": 0}
SHAPE_KEYS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")


def read_llmservingsim(folder: Path, tensor_parallel_size: int = 1) -> Measured:
    """One degree of tensor parallelism of a profile folder."""
    meta_file, tables = folder / "meta.yaml", folder / f"tp{tensor_parallel_size}"
    if not meta_file.is_file() or not tables.is_dir():
        raise ScenarioError(
            "not a profile folder of LLMServingSim",
            given=str(folder),
            allowed=f"meta.yaml and tp{tensor_parallel_size}/dense.csv, per_sequence.csv, attention.csv",
        )
    meta = yaml.safe_load(meta_file.read_text(encoding="utf-8"))
    engine = meta.get("engine_effective", {})
    dense = pd.read_csv(tables / "dense.csv")
    head = pd.read_csv(tables / "per_sequence.csv")
    moe = tables / "moe.csv"
    experts = expert_rows(pd.read_csv(moe)) if moe.is_file() else []
    names = {*dense["layer"], *(str(row[0]) for row in experts)}
    return Measured(
        device=str(meta.get("gpu", meta.get("hardware", "unknown"))),
        model=str(meta.get("model", "unknown")),
        tensor_parallel_size=tensor_parallel_size,
        shape=shape_of(engine.get("hf_overrides", {}), is_split=list(meta.get("tp_degrees", [1])) != [1]),
        calls={name: CALLS_PER_LAYER.get(name, 1) for name in sorted(names)},
        source=f"LLMServingSim profile of {meta.get('profiled_at', 'unknown date')}, "
        f"vLLM {meta.get('vllm_version', 'unknown')}, {meta.get('variant', '')}".strip(", "),
        per_token=rows_of(dense, ("layer", "tokens")) + experts,
        per_sequence=rows_of(head, ("layer", "sequences")),
        attention=attention_rows(pd.read_csv(tables / "attention.csv")),
        notes="layernorm is called twice in a layer",
    )


def shape_of(overrides: Mapping[str, Any], *, is_split: bool) -> dict[str, int]:
    """What the profiled model must share with the scenario's.

    One GPU stands in for a rank of several with its share of the model. Of which degree the sizes are that a
    profile of several degrees states, it does not say: those that are split are left out then.
    """
    names = ("hidden_size",) if is_split else SHAPE_KEYS
    return {name: int(overrides[name]) for name in names if name in overrides}


def rows_of(table: pd.DataFrame, columns: tuple[str, str]) -> list[Row]:
    """(operator, size, seconds), repeated measurements averaged."""
    means = table.groupby(list(columns), sort=True)["time_us"].mean().reset_index()
    times = means["time_us"] * 1e-6
    return list(zip(means[columns[0]], means[columns[1]].astype(int), times, strict=True))


def expert_rows(table: pd.DataFrame) -> list[Row]:
    """("moe", tokens, seconds) of one GPU that has all experts; the block's router is in the time.

    One token hits as many experts as it picks, and all of them are hit at the most that was measured.
    """
    if "ep" in table:
        table = table[table["ep"] == 1]
    hit = table["activated_experts"]
    if not len(table) or table["tokens"].min() != 1:
        raise ScenarioError(
            "no time of one token on one GPU", path="moe.csv", allowed="a row with ep 1, tokens 1"
        )
    picked, experts = float(hit[table["tokens"] == 1].min()), float(hit.max())
    rows: list[Row] = []
    for tokens, measured in table.groupby("tokens", sort=True):
        means = measured.groupby("activated_experts")["time_us"].mean()
        at = experts_hit(experts, picked, np.array([float(str(tokens))]))
        time = np.interp(at, means.index.to_numpy(dtype=float), means.to_numpy(dtype=float))
        rows.append(("moe", int(str(tokens)), float(time[0]) * 1e-6))
    return rows


def attention_rows(table: pd.DataFrame) -> list[Row]:
    """(chunk, its context, decodes, their context, seconds); decodes that verify drafts are left out.

    Newer profiles have ``prefill_key``, the mean number of keys that a chunk's tokens see (its context and
    half of itself), in place of ``kv_prefill``.
    """
    if "decode_q_len" in table:
        table = table[(table["decode_q_len"] == 1) | (table["n_decode"] == 0)]
    if "layer" in table and table["layer"].nunique() > 1:
        raise ScenarioError(
            "more than one kind of attention",
            path="attention.csv",
            given=", ".join(sorted(set(table["layer"]))),
            allowed="one: every layer of a price table is alike",
        )
    if "kv_prefill" not in table:
        context = (table["prefill_key"] - table["prefill_chunk"] / 2).clip(lower=0)
        table = table.assign(kv_prefill=context.where(table["prefill_chunk"] > 0, 0).round())
    columns = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
    means = table.groupby(columns, sort=True)["time_us"].mean().reset_index()
    sizes = [means[name].astype(int) for name in columns]
    return list(zip(*sizes, means["time_us"] * 1e-6, strict=True))
