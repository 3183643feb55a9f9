"""What ``calibrate measure`` wrote (``calibrate/data/PROFILE``) as the price table of one dense model.

Linear layers, norms, activation and rotary embedding by tokens, the vocabulary projection by sequences,
attention on a grid of prompt chunks and of decodes. What a model needs and the plan did not measure is named
and refused. Not measured: a chunk beside decodes in one kernel call (their sum is taken), the embedding's
lookup, all-reduces. Attention is our Triton kernels', as only they ran behind cached tokens and over pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrate.fit.rows import MeasuredRow, Measurements, read_measurements
from calibrate.fit.timings import chosen_rows, graph_start_s, kernel_s, who_measured
from calibrate.importing.table_writing import Measured, Row
from sim.errors import ScenarioError
from sim.model.config import load_model
from sim.model.counts import kv_heads_per_gpu
from sim.model.matrices import layer_matrices
from sim.model.shape import ModelShape
from sim.price.providers.table import SHAPE_KEYS

FEWEST_SIZES = 2
LINEAR = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"}
CALLS = {"rms_norm": 2, "rms_norm_last": 0, "silu_mul": 1, "rope_cache": 1}


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of one folder, by who shall stand for a kernel."""

    measured: Measurements
    choice: str
    start_s: float

    def rows(self, kernel: str, what: str, *, only: str = "", **axes: int) -> list[MeasuredRow]:
        """The rows of a kernel with these lengths; a ScenarioError that names them where they are too few."""
        choice = only or ("triton" if self.choice == "library" and kernel != "matmul" else self.choice)
        found = [
            row
            for row in chosen_rows(self.measured, kernel, choice=choice)
            if all(row.size[name] == length for name, length in axes.items())
        ]
        if len(found) < FEWEST_SIZES:
            lengths = " ".join(f"{name}={length}" for name, length in axes.items())
            raise ScenarioError(
                f"too few measurements of {what}", file=str(self.measured.folder), given=f"{len(found)} rows",
                allowed=f"at least {FEWEST_SIZES} rows of {kernel} {lengths}",
                hint="python -m calibrate run, or a model whose shapes were measured",
            )  # fmt: skip
        return found

    def by_size(self, name: str, rows: Sequence[MeasuredRow]) -> list[Row]:
        """(name, M, seconds) of each."""
        found: list[Row] = [(name, row.size["M"], kernel_s(row, self.start_s)) for row in rows]
        return sorted(found, key=lambda row: int(str(row[1])))


def read_measured_folder(folder: Path, model: str, tensor_parallel_size: int, choice: str) -> Measured:
    """The table of a model, per rank where it is split."""
    if not model:
        raise ScenarioError("whose layers?", path="--model", hint="--model llama-3.1-8b")
    shape = load_model(model)
    measured = read_measurements(folder)
    source = Source(measured, choice, graph_start_s(measured))
    matrices = layer_matrices(shape, tensor_parallel_size)
    if {one.name for one in matrices} != LINEAR:
        raise ScenarioError(
            "only dense models with gated activations were measured", path="--model", given=model,
            allowed=f"models of {', '.join(sorted(LINEAR))}",
        )  # fmt: skip
    per_token = [
        row
        for one in matrices
        if one.name != "lm_head"
        for row in source.by_size(one.name, source.rows("matmul", one.name, N=one.n, K=one.k))
    ]
    per_token += elementwise_rows(source, shape, tensor_parallel_size)
    head = matrices[-1]
    names = list(dict.fromkeys(str(row[0]) for row in per_token))
    rows = source.rows("matmul", head.name, N=head.n, K=head.k)
    return Measured(
        device=folder.resolve().name,
        model=shape.name,
        tensor_parallel_size=tensor_parallel_size,
        shape={name: int(getattr(shape, name)) for name in SHAPE_KEYS},
        calls={name: CALLS.get(name, 1) for name in names},
        source=who_measured(list(measured.rows)),
        per_token=per_token,
        per_sequence=source.by_size("lm_head", rows),
        attention=attention_rows(source, shape, tensor_parallel_size),
        notes=f"linear layers by: {choice}; attention by our Triton kernels, chunks and decodes apart",
    )


def elementwise_rows(source: Source, shape: ModelShape, tensor_parallel_size: int) -> list[Row]:
    """Two norms with their residual a layer and the last one, activation, rotary embedding into the cache."""
    heads = heads_of(shape, tensor_parallel_size)
    wide = shape.intermediate_size // tensor_parallel_size
    norms = source.rows("rms_norm", "RMSNorm", N=shape.hidden_size, has_residual=1)
    found = source.by_size("rms_norm", norms) + source.by_size("rms_norm_last", norms)
    found += source.by_size("silu_mul", source.rows("silu_mul", "the activation", only="triton", N=wide))
    rotary = source.rows("rope_cache", "the rotary embedding", only="triton", **heads)
    return found + source.by_size("rope_cache", rotary)


def heads_of(shape: ModelShape, tensor_parallel_size: int) -> dict[str, int]:
    """Heads of one rank, as the kernels' sizes name them."""
    query = shape.num_attention_heads // tensor_parallel_size
    return {"H": query, "G": kv_heads_per_gpu(shape, tensor_parallel_size), "D": shape.head_dim}


def cached_tokens(row: MeasuredRow) -> int:
    """Tokens in the cache before the chunk."""
    return row.size["S"] - row.size["T"]


def attention_rows(source: Source, shape: ModelShape, tensor_parallel_size: int) -> list[Row]:
    """One prompt's chunks by (tokens, cached), decodes by (sequences, context)."""
    heads = heads_of(shape, tensor_parallel_size)
    chunks = source.rows("flash_attention", "prompts", only="triton", B=1, is_causal=1, **heads)
    behind = {row.size["T"] for row in chunks if cached_tokens(row)}
    found: list[Row] = [
        (row.size["T"], cached_tokens(row), 0, 0, kernel_s(row, source.start_s))
        for row in chunks
        if row.size["T"] in behind or not behind  # a prompt never seen behind others would look free there
    ]
    decodes = source.rows("paged_decode_attention", "decoding", only="triton", **heads)
    found += [(0, 0, row.size["B"], row.size["context"], kernel_s(row, source.start_s)) for row in decodes]
    return sorted(found, key=lambda row: tuple(int(str(cell)) for cell in row[:4]))
