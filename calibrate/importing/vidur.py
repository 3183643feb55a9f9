"""Vidur's profiling tables: ``mlp.csv`` and ``attention.csv`` of one model and device, times in ms.

``mlp.csv`` has a row per token count with ``time_stats.OPERATOR.median``; ``attention.csv`` a row per
(batch_size, prefill_chunk_size, kv_cache_size). Vidur times the prompts and the decodes of a step apart, so
the price of a mixed step is their sum. It does not time lm_head: its price is 0, and the notes say so.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from calibrate.importing.table_writing import Measured, Row
from sim.errors import ScenarioError

SHAPE = {
    "n_embd": "hidden_size",
    "n_expanded_embd": "intermediate_size",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
CALLS_PER_LAYER = {"add": 2, "emb": 0}
PREFIX, SUFFIX = "time_stats.", ".median"
ATTENTION = ("attn_prefill", "attn_decode")
PER_LAYER_ATTENTION = ("attn_input_reshape", "attn_kv_cache_save", "attn_output_reshape")


def read_vidur(folder: Path, tensor_parallel_size: int, model: str, gpu: str) -> Measured:
    """One degree of tensor parallelism of a model's folder."""
    mlp = rows_of(folder / "mlp.csv", tensor_parallel_size)
    attention = rows_of(folder / "attention.csv", tensor_parallel_size)
    shape = {ours: int(mlp[theirs].iloc[0]) for theirs, ours in SHAPE.items() if theirs in mlp}
    columns = [str(name) for name in mlp]
    operators = [name[len(PREFIX) : -len(SUFFIX)] for name in columns if name.startswith(PREFIX)]
    operators = [name for name in operators if f"{PREFIX}{name}{SUFFIX}" in mlp]
    per_token: list[Row] = []
    for operator in operators:
        times = mlp.groupby("num_tokens")[f"{PREFIX}{operator}{SUFFIX}"].mean().dropna()
        per_token += [(operator, int(str(size)), float(time) * 1e-3) for size, time in times.items()]
    return Measured(
        device=gpu or "unknown",
        model=model or folder.name,
        tensor_parallel_size=tensor_parallel_size,
        shape=shape,
        calls={name: CALLS_PER_LAYER.get(name, 1) for name in sorted({str(row[0]) for row in per_token})},
        source=f"Vidur profiling tables, {folder.name}",
        per_token=per_token,
        per_sequence=[("lm_head", 1, 0.0)],
        attention=attention_rows(attention),
        notes="no lm_head was measured; attention of prompts and decodes was measured apart",
    )


def rows_of(file: Path, tensor_parallel_size: int) -> pd.DataFrame:
    """The rows of one degree of tensor parallelism."""
    if not file.is_file():
        raise ScenarioError(
            "not a folder of Vidur's tables", given=str(file), allowed="mlp.csv, attention.csv"
        )
    table = pd.read_csv(file)
    if "num_tensor_parallel_workers" in table:
        table = table[table["num_tensor_parallel_workers"] == tensor_parallel_size]
    if not len(table):
        raise ScenarioError(f"no rows with {tensor_parallel_size} tensor-parallel workers", file=str(file))
    return table


def attention_rows(table: pd.DataFrame) -> list[Row]:
    """Prompt chunks by (tokens, cached), decodes by (sequences, context); what surrounds them added."""
    around = sum(
        (
            table[f"{PREFIX}{name}{SUFFIX}"].fillna(0.0)
            for name in PER_LAYER_ATTENTION
            if f"{PREFIX}{name}{SUFFIX}" in table
        ),
        start=pd.Series(0.0, index=table.index),
    )
    is_prefill = table["prefill_chunk_size"] > 0
    which = [f"{PREFIX}{name}{SUFFIX}" for name in ATTENTION]
    time = table[which[0]].where(is_prefill, table[which[1]]) + around
    rows = pd.DataFrame(
        {
            "prefill_tokens": table["prefill_chunk_size"].where(is_prefill, 0),
            "prefill_context": table["kv_cache_size"].where(is_prefill, 0),
            "num_decode": table["batch_size"].where(~is_prefill, 0),
            "decode_context": table["kv_cache_size"].where(~is_prefill, 0),
            "time": time * 1e-3,
        }
    )
    rows = rows[~(is_prefill & (table["batch_size"] > 1))].dropna()
    sizes = list(rows.columns[:4])
    means = rows.groupby(sizes)["time"].mean().reset_index()
    return list(zip(*(means[name].astype(int) for name in sizes), means["time"], strict=True))
