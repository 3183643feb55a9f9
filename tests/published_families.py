"""Published shapes of families that are not shipped, with what counts them.

Parameters are those that transformers counts on the meta device; of step-3.5-flash (197 B), ling-mini
(16.26 B) and minimax-text-01 (456 B) their model cards'. KV bytes of a token and state bytes of a
sequence follow from the shapes by hand, in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A config, and what it must come to."""

    config: dict[str, Any]
    parameters: int
    kv_bytes_per_token: int
    state_bytes: int
    layer_types: set[str]


FAMILIES: dict[str, Family] = {
    "falcon-h1-34b": Family(
        {
            "model_type": "falcon_h1", "hidden_size": 5120, "num_hidden_layers": 72,
            "num_attention_heads": 20, "num_key_value_heads": 4, "head_dim": 128,
            "intermediate_size": 21504, "vocab_size": 261120, "mamba_d_ssm": 4096, "mamba_n_heads":
            32, "mamba_d_head": 128, "mamba_n_groups": 2, "mamba_d_state": 256, "mamba_d_conv": 4,
            "mamba_expand": 2, "mamba_chunk_size": 128, "mamba_conv_bias": True, "mamba_proj_bias":
            False, "mamba_rms_norm": False, "mamba_norm_before_gate": False, "mamba_use_mlp": True,
            "attn_layer_indices": None, "tie_word_embeddings": False, "max_position_embeddings":
            262144, "projectors_bias": False, "mlp_expansion_factor": 8, "time_step_rank": 320,
            "rms_norm_eps": 1e-05,
        },
        33_642_221_312, 147_456, 153_206_784, {"full_attention+mamba"},
    ),
    "lfm2-1.2b": Family(
        {
            "model_type": "lfm2", "hidden_size": 2048, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "block_ff_dim": 12288,
            "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim":
            True, "block_dim": 2048, "conv_L_cache": 3, "conv_bias": False, "conv_dim": 2048,
            "conv_dim_out": 2048, "conv_use_xavier_init": True, "full_attn_idxs": [2, 5, 8, 10, 12,
            14], "vocab_size": 65536, "max_position_embeddings": 128000, "block_mlp_init_scale":
            1.0, "block_norm_eps": 1e-05, "block_use_swiglu": True, "block_use_xavier_init": True,
            "num_heads": 32, "norm_eps": 1e-05, "use_pos_enc": True,
        },
        1_170_340_608, 12_288, 81_920, {"conv", "full_attention"},
    ),
    "lfm2-8b-a1b": Family(
        {
            "model_type": "lfm2_moe", "hidden_size": 2048, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 7168,
            "moe_intermediate_size": 1792, "num_experts": 32, "num_experts_per_tok": 4,
            "num_dense_layers": 2, "norm_topk_prob": True, "use_expert_bias": True,
            "routed_scaling_factor": 1.0, "conv_L_cache": 3, "conv_bias": False, "layer_types":
            ["full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)],
            "vocab_size": 65536, "max_position_embeddings": 128000,
        },
        8_339_929_856, 12_288, 147_456, {"conv", "full_attention"},
    ),
    "glm-4.5-air": Family(
        {
            "model_type": "glm4_moe", "hidden_size": 4096, "num_hidden_layers": 46,
            "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
            "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 128,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1,
            "attention_bias": True, "use_qk_norm": False, "vocab_size": 151552,
            "max_position_embeddings": 131072, "num_nextn_predict_layers": 1, "n_group": 1,
            "topk_group": 1, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
            "norm_topk_prob": True, "routed_scaling_factor": 1.0,
        },
        106_852_245_504, 188_416, 0, {"full_attention"},
    ),
    "glm-4.5": Family(
        {
            "model_type": "glm4_moe", "hidden_size": 5120, "num_hidden_layers": 92,
            "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
            "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
            "attention_bias": True, "use_qk_norm": True, "vocab_size": 151552,
            "max_position_embeddings": 131072, "num_nextn_predict_layers": 1, "n_group": 1,
            "topk_group": 1, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
            "norm_topk_prob": True, "routed_scaling_factor": 1.0,
        },
        352_797_814_784, 376_832, 0, {"full_attention"},
    ),
    "minimax-m2": Family(
        {
            "model_type": "minimax_m2", "attn_type_list": [1] * 62, "hidden_size": 3072,
            "num_hidden_layers": 62, "num_attention_heads": 48, "num_key_value_heads": 8,
            "head_dim": 128, "intermediate_size": 1536, "num_local_experts": 256,
            "num_experts_per_tok": 8, "vocab_size": 200064, "max_position_embeddings": 196608,
            "use_qk_norm": True, "qk_norm_type": "per_layer", "use_routing_bias": True,
            "shared_intermediate_size": 0, "mtp_transformer_layers": 1, "num_mtp_modules": 3,
            "use_mtp": True, "scoring_func": "sigmoid", "layernorm_full_attention_beta": 1.0,
            "rotary_dim": 64, "tie_word_embeddings": False, "mlp_intermediate_size": 8192,
            "layernorm_linear_attention_alpha": 1.0, "rms_norm_eps": 1e-06,
        },
        228_689_748_992, 253_952, 0, {"full_attention"},
    ),
    "jamba-mini": Family(
        {
            "model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
            "num_experts": 16, "num_experts_per_tok": 2, "expert_layer_period": 2,
            "expert_layer_offset": 1, "attn_layer_period": 8, "attn_layer_offset": 4,
            "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 256,
            "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_inner_layernorms": True,
            "vocab_size": 65536, "max_position_embeddings": 262144, "sliding_window": None,
            "use_mamba_kernels": True, "num_logits_to_keep": 1,
        },
        51_570_323_328, 16_384, 8_716_288, {"full_attention", "mamba"},
    ),
    "bamba-9b": Family(
        {
            "model_type": "bamba", "hidden_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
            "attn_layer_indices": [9, 18, 27], "mamba_n_heads": 128, "mamba_d_head": 64,
            "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_d_conv": 4, "mamba_expand": 2,
            "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False,
            "vocab_size": 128256, "attn_rotary_emb": 64, "max_position_embeddings": 262144,
            "tie_word_embeddings": False,
        },
        9_780_235_392, 12_288, 62_287_360, {"full_attention", "mamba"},
    ),
    "exaone4-32b": Family(
        {
            "model_type": "exaone4", "hidden_size": 5120, "num_hidden_layers": 64,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
            "intermediate_size": 27392, "vocab_size": 102400, "sliding_window": 4096,
            "sliding_window_pattern": "LLLG", "layer_types": ["sliding_attention",
            "sliding_attention", "sliding_attention", "full_attention"] * 16, "tie_word_embeddings":
            False, "max_position_embeddings": 131072,
        },
        32_003_216_384, 262_144, 0, {"full_attention", "sliding_attention"},
    ),
    "seed-oss-36b": Family(
        {
            "model_type": "seed_oss", "hidden_size": 5120, "num_hidden_layers": 64,
            "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 128,
            "intermediate_size": 27648, "vocab_size": 155136, "attention_bias": True,
            "attention_out_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
            "max_position_embeddings": 524288,
        },
        36_151_104_512, 262_144, 0, {"full_attention"},
    ),
    "hunyuan-a13b": Family(
        {
            "model_type": "hunyuan_v1_moe", "hidden_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "attention_head_dim": 128, "intermediate_size": 3072, "moe_intermediate_size": [3072] *
            32, "num_experts": 64, "moe_topk": [8] * 32, "num_shared_expert": [1] * 32,
            "use_mixed_mlp_moe": True, "use_cla": False, "cla_share_factor": 2, "use_qk_norm": True,
            "vocab_size": 128167, "tie_word_embeddings": True, "max_position_embeddings": 32768,
            "moe_layer_num_skipped": 0, "norm_type": "rms", "org_vocab_size": 128167, "q_lora_rank":
            None, "kv_lora_rank": None, "v_head_dim": None, "qk_nope_head_dim": None,
            "qk_rope_head_dim": None, "n_group": None,
        },
        80_393_183_232, 131_072, 0, {"full_attention"},
    ),
    "dots1": Family(
        {
            "model_type": "dots1", "hidden_size": 4096, "num_hidden_layers": 62,
            "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 10944,
            "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 2,
            "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1, "vocab_size":
            152064, "tie_word_embeddings": False, "n_group": 1, "topk_group": 1, "head_dim": 128,
            "attention_bias": False, "max_position_embeddings": 32768,
        },
        142_774_373_888, 1_015_808, 0, {"full_attention"},
    ),
    "granite-4-tiny": Family(
        {
            "model_type": "granitemoehybrid", "hidden_size": 1536, "num_hidden_layers": 40,
            "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 512,
            "shared_intermediate_size": 1024, "num_local_experts": 64, "num_experts_per_tok": 6,
            "layer_types": ["mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba",
            "mamba", "mamba", "mamba"] * 4, "mamba_n_heads": 48, "mamba_d_head": 64,
            "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4, "mamba_expand": 2,
            "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False,
            "vocab_size": 100352, "tie_word_embeddings": True, "max_position_embeddings": 131072,
            "position_embedding_type": "nope", "normalization_function": "rmsnorm", "init_method":
            "mup",
        },
        6_939_037_248, 8_192, 29_030_400, {"full_attention", "mamba"},
    ),
    "qwen3.5-moe": Family(
        {
            "model_type": "qwen3_5_moe_text", "hidden_size": 2048, "num_hidden_layers": 40,
            "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
            "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts":
            256, "num_experts_per_tok": 8, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
            "full_attention_interval": 4, "attn_output_gate": True, "mamba_ssm_dtype": "float32",
            "layer_types": ["linear_attention", "linear_attention", "linear_attention",
            "full_attention"] * 10, "vocab_size": 248320, "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False, "max_position_embeddings": 262144,
            "tie_word_embeddings": False,
        },
        34_660_610_688, 20_480, 64_389_120, {"full_attention", "linear_attention"},
    ),
    "kimi-k2": Family(
        {
            "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
            "num_attention_heads": 64, "num_key_value_heads": 64, "intermediate_size": 18432,
            "moe_intermediate_size": 2048, "n_routed_experts": 384, "n_shared_experts": 1,
            "num_experts_per_tok": 8, "first_k_dense_replace": 1, "moe_layer_freq": 1,
            "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim":
            64, "v_head_dim": 128, "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc",
            "vocab_size": 163840, "tie_word_embeddings": False, "max_position_embeddings": 131072,
            "aux_loss_alpha": 0.001, "ep_size": 1, "seq_aux": True, "num_nextn_predict_layers": 0,
        },
        1_026_408_209_408, 70_272, 0, {"full_attention"},
    ),
    "gemma3n-e4b": Family(
        {
            "model_type": "gemma3n_text", "hidden_size": 2048, "num_hidden_layers": 35,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256,
            "intermediate_size": [16384] * 35, "vocab_size": 262400, "vocab_size_per_layer_input":
            262144, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 15,
            "sliding_window": 512, "laurel_rank": 64, "altup_num_inputs": 4, "altup_active_idx": 0,
            "altup_correct_scale": True, "layer_types": ["sliding_attention", "sliding_attention",
            "sliding_attention", "sliding_attention", "full_attention"] * 7,
            "max_position_embeddings": 32768, "activation_sparsity_pattern": [0.95] * 10 + [0.0] *
            25,
        },
        6_835_235_568, 40_960, 0, {"full_attention", "sliding_attention"},
    ),
    "gemma4-31b": Family(
        {
            "model_type": "gemma4_text", "hidden_size": 5376, "num_hidden_layers": 60,
            "num_attention_heads": 32, "num_key_value_heads": 16, "num_global_key_value_heads": 4,
            "head_dim": 256, "global_head_dim": 512, "attention_k_eq_v": True, "intermediate_size":
            21504, "vocab_size": 262144, "sliding_window": 1024, "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 262144, "num_kv_shared_layers": 0, "layer_types":
            ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "full_attention"] * 10, "max_position_embeddings": 262144,
            "enable_moe_block": False, "use_double_wide_mlp": False, "num_experts": None,
            "top_k_experts": None,
        },
        30_697_345_280, 901_120, 0, {"full_attention", "sliding_attention"},
    ),
    "gemma4-26b": Family(
        {
            "model_type": "gemma4_text", "hidden_size": 2816, "num_hidden_layers": 30,
            "num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2,
            "head_dim": 256, "global_head_dim": 512, "attention_k_eq_v": True, "intermediate_size":
            2112, "vocab_size": 262144, "sliding_window": 1024, "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 262144, "num_kv_shared_layers": 0, "layer_types":
            ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
            "sliding_attention", "full_attention"] * 5, "max_position_embeddings": 262144,
            "enable_moe_block": True, "use_double_wide_mlp": False, "num_experts": 128,
            "top_k_experts": 8, "moe_intermediate_size": 704,
        },
        25_233_141_760, 225_280, 0, {"full_attention", "sliding_attention"},
    ),
    "gemma4-e2b": Family(
        {
            "model_type": "gemma4_text", "hidden_size": 1536, "num_hidden_layers": 35,
            "num_attention_heads": 8, "num_key_value_heads": 1, "num_global_key_value_heads": None,
            "head_dim": 256, "global_head_dim": 512, "attention_k_eq_v": False, "intermediate_size":
            6144, "vocab_size": 262144, "sliding_window": 512, "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": 262144, "num_kv_shared_layers": 20, "layer_types":
            ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
            "full_attention"] * 7, "max_position_embeddings": 262144, "enable_moe_block": False,
            "use_double_wide_mlp": True, "num_experts": None, "top_k_experts": None,
        },
        4_628_569_344, 18_432, 0, {"full_attention", "sliding_attention"},
    ),
    "smollm3": Family(
        {
            "model_type": "smollm3", "hidden_size": 2048, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 11008,
            "max_position_embeddings": 65536,
            "vocab_size": 128256, "tie_word_embeddings": True, "no_rope_layers": [1, 1, 1, 0] * 9,
            "no_rope_layer_interval": 4, "layer_types": ["full_attention"] * 36,
            "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28,
        },
        3_075_098_624, 73_728, 0, {"full_attention"},
    ),
    "falcon-mamba-7b": Family(
        {
            "model_type": "falcon_mamba", "hidden_size": 4096, "num_hidden_layers": 64,
            "state_size": 16, "conv_kernel": 4, "expand": 16, "intermediate_size": 8192,
            "time_step_rank": 256, "vocab_size": 65024, "use_bias": False, "use_conv_bias": True,
            "tie_word_embeddings": False,
        },
        7_272_665_088, 0, 19_922_944, {"mamba"},
    ),
    "mamba2-codestral": Family(
        {
            "model_type": "mamba2", "hidden_size": 4096, "num_hidden_layers": 64, "num_heads": 128,
            "head_dim": 64, "state_size": 128, "conv_kernel": 4, "expand": 2, "n_groups": 8,
            "vocab_size": 32768, "use_bias": False, "use_conv_bias": True, "chunk_size": 256,
            "norm_before_gate": True, "intermediate_size": 8192, "tie_word_embeddings": False,
        },
        7_285_403_648, 0, 138_149_888, {"mamba"},
    ),
    "glm-5": Family(
        {
            "model_type": "glm_moe_dsa", "hidden_size": 6144, "num_hidden_layers": 78,
            "num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 64,
            "intermediate_size": 12288, "moe_intermediate_size": 2048, "n_routed_experts": 256,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
            "q_lora_rank": 2048, "kv_lora_rank": 512, "qk_head_dim": 256, "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64, "v_head_dim": 256, "index_head_dim": 128, "index_n_heads": 32,
            "index_topk": 2048, "vocab_size": 154880, "max_position_embeddings": 202752,
            "indexer_rope_interleave": True, "moe_layer_freq": 1, "num_nextn_predict_layers": 1,
            "tie_word_embeddings": False,
        },
        743_911_199_232, 100_152, 0, {"full_attention"},
    ),
    "mimo-v2-flash": Family(
        {
            "model_type": "mimo_v2_flash", "hidden_size": 4096, "num_hidden_layers": 48,
            "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128,
            "swa_num_attention_heads": 64, "swa_num_key_value_heads": 8, "swa_head_dim": 192,
            "swa_v_head_dim": 128, "sliding_window": 128, "sliding_window_size": 128,
            "hybrid_layer_pattern": [0, 1, 1, 1, 1, 1] * 8, "hybrid_block_size": None,
            "moe_layer_freq": [0] + [1] * 47, "n_routed_experts": 256, "n_shared_experts": None,
            "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "intermediate_size": 16384,
            "vocab_size": 152576, "max_position_embeddings": 262144, "tie_word_embeddings": False,
            "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
            "attention_value_scale": 0.707, "attention_chunk_size": 128, "partial_rotary_factor":
            0.334,
        },
        308_778_768_832, 225_280, 0, {"full_attention", "sliding_attention"},
    ),
    "step-3.5-flash": Family(
        {
            "model_type": "step3p5", "hidden_size": 4096, "num_hidden_layers": 45,
            "num_attention_heads": 64, "num_attention_groups": 8, "head_dim": 128,
            "intermediate_size": 11264, "moe_num_experts": 288, "moe_top_k": 8,
            "moe_intermediate_size": 1280, "share_expert_dim": 1280, "moe_layers_enum":
            "3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44",
            "sliding_window": 512, "layer_types": (["full_attention"] + ["sliding_attention"] * 3) *
            11 + ["full_attention"], "attention_other_setting": {"attention_type":
            "sliding_attention", "num_attention_heads": 96, "num_attention_groups": 8, "head_dim":
            128}, "use_head_wise_attn_gate": True, "vocab_size": 128896, "max_seq_len": 262144,
            "tie_word_embeddings": False, "num_nextn_predict_layers": 3, "use_moe": True,
            "moe_router_activation": "sigmoid",
        },
        197_000_000_000, 184_320, 0, {"full_attention", "sliding_attention"},
    ),
    "ling-mini": Family(
        {
            "model_type": "bailing_moe_v2", "hidden_size": 2048, "num_hidden_layers": 20,
            "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
            "intermediate_size": 5120, "moe_intermediate_size": 512, "num_experts": 256,
            "num_experts_per_tok": 8, "num_shared_experts": 1, "first_k_dense_replace": 1,
            "n_group": 8, "topk_group": 4, "vocab_size": 157184, "use_qk_norm": True,
            "use_qkv_bias": False, "use_bias": False, "max_position_embeddings": 32768,
            "tie_word_embeddings": False, "norm_head": False, "score_function": "sigmoid",
            "moe_router_enable_expert_bias": True, "num_nextn_predict_layers": 0,
            "moe_shared_expert_intermediate_size": 512, "rms_norm_eps": 1e-06, "use_rmsnorm": True,
        },
        16_260_000_000, 40_960, 0, {"full_attention"},
    ),
    "minimax-text-01": Family(
        {
            "model_type": "minimax_text_01", "hidden_size": 6144, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
            "intermediate_size": 9216, "num_local_experts": 32, "num_experts_per_tok": 2,
            "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10, "vocab_size": 200064,
            "max_position_embeddings": 10240000, "shared_intermediate_size": 0, "postnorm": True,
            "layernorm_full_attention_alpha": 3.55, "rotary_dim": 64, "shared_moe_mode": "sigmoid",
            "tie_word_embeddings": False,
        },
        456_000_000_000, 40_960, 146_800_640, {"full_attention", "linear_attention"},
    ),
}  # fmt: skip
