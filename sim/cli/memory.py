"""``gpuyard memory``: where a device's memory goes, line by line with its formula."""

from __future__ import annotations

import argparse

# The options of vLLM that decide memory, by the same names: flag, placeholder.
ENGINE_OPTIONS = {
    "tensor_parallel_size": "N",
    "max_model_len": "TOKENS",
    "max_num_seqs": "N",
    "max_num_batched_tokens": "TOKENS",
    "gpu_memory_utilization": "FRACTION",
    "dtype": "DTYPE",
    "quantization": "KIND",
    "kv_cache_dtype": "DTYPE",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, device, and vLLM's options by vLLM's names."""
    parser.add_argument(
        "--model", required=True, metavar="M", help="a shipped model, or a path to a config.json"
    )
    parser.add_argument(
        "--hardware", required=True, metavar="H", help="a shipped profile, or a path to a YAML"
    )
    for name, placeholder in ENGINE_OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=placeholder, help=f"vLLM's {name}")
    parser.add_argument("--tokens", type=int, metavar="N", help="also: what the KV of so many tokens takes")
    parser.add_argument("--json", action="store_true", help="print JSON")
