"""Configs of architectures that no shipped shape has, with their published parameter counts."""

from __future__ import annotations

from typing import Any

# Architectures that no shipped shape has: config, parameters as transformers counts them.
UNSHIPPED: dict[str, tuple[dict[str, Any], int]] = {
    "bloom-560m": (
        {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16,
         "vocab_size": 250880},
        559_214_592,
    ),
    "bloom-7b1": (
        {"model_type": "bloom", "hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880},
        7_069_016_064,
    ),
    # The checkpoint stores an lm_head, as if it were not tied.
    "falcon-7b": (
        {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
         "multi_query": True, "parallel_attn": True, "vocab_size": 65024, "tie_word_embeddings": False},
        7_217_189_760,
    ),
    "phi-2": (
        {"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
         "num_attention_heads": 32, "vocab_size": 51200},
        2_779_683_840,
    ),
    "gpt-j-6b": (
        {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400,
         "n_positions": 2048},
        6_050_882_784,
    ),
    "starcoder2-7b": (
        {"model_type": "starcoder2", "hidden_size": 4608, "intermediate_size": 18432,
         "num_hidden_layers": 32, "num_attention_heads": 36, "num_key_value_heads": 4, "vocab_size": 49152,
         "sliding_window": 4096},
        7_173_923_840,
    ),
    "gemma-7b": (
        {"model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
         "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 256000},
        8_537_680_896,
    ),
    "qwen1.5-moe-a2.7b": (
        {"model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632,
         "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
         "vocab_size": 151936, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
         "num_experts": 60, "num_experts_per_tok": 4},
        14_315_784_192,
    ),
    "jamba-v0.1": (
        {"model_type": "jamba", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 65536, "num_experts": 16,
         "num_experts_per_tok": 2, "expert_layer_period": 2, "expert_layer_offset": 1,
         "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_dt_rank": 256},
        51_570_323_328,
    ),
    "olmo-2-7b": (
        {"model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "vocab_size": 100352},
        7_298_617_344,
    ),
}  # fmt: skip
