"""``gpuyard list``: what is shipped."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sim.cli.exits import FINE

KINDS = ("hardware", "models", "scenarios")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to list."""
    parser.add_argument("kind", nargs="?", choices=KINDS, help="one of these; default: all")


def run(arguments: argparse.Namespace) -> int:
    """Print a table per kind."""
    tables = {"hardware": _hardware, "models": _models, "scenarios": _scenarios}
    kinds = [arguments.kind] if arguments.kind else list(KINDS)
    print("\n\n".join(f"{kind}\n{tables[kind]()}" for kind in kinds))
    return FINE


def _hardware() -> str:
    from sim.catalog import hardware_table

    return hardware_table()


def _models() -> str:
    from sim.model import kv_bytes_per_token, load_model, model_names, num_parameters

    rows = [("name", "parameters", "layers", "heads", "KV heads", "KV bytes a token (16 bit)")]
    for name in model_names():
        model = load_model(name)
        heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
        rows.append(
            (
                name,
                f"{num_parameters(model) / 1e9:.2f} B",
                str(model.num_hidden_layers),
                str(heads),
                "latent" if model.mla else str(kv_heads),
                f"{kv_bytes_per_token(model, 2):,.0f}",
            )
        )
    return _aligned(rows)


def _scenarios() -> str:
    from sim.data import scenario_name, scenario_paths
    from sim.loading import load_yaml

    rows = [(scenario_name(path), str(load_yaml(path)["question"])) for path in scenario_paths()]
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join("  " + line.rstrip() for line in lines)
