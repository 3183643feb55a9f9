"""What Gpuyard does not model, and what it models instead: one list for all that speaks of it.

The loader answers a key or a value that asks for one of these with the entry, never with a name that only
reads like it; the JSON Schema prints the list. A technique that comes to be modelled takes its entry away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sim.errors import A_SLIP, closest, did_you_mean
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NotModelled:
    """One technique: its name, the words that ask for it, and what there is in its place."""

    technique: str
    words: str  # a regular expression of whole words, in lower case with _ for - and ., or of section/word
    instead: str

    def __str__(self) -> str:
        return f"not modelled: {self.technique}; what is: {self.instead}"


NOT_MODELLED = (
    NotModelled(
        technique="context parallelism (one sequence over several GPUs)",
        words=r".*context_parallel.*|d?p?cp(_size)?|.*ulysses.*|ring_attention.*|sequence_parallel_(size|degree)"
        r"|sp(_size)?|.*attention_context_parallel.*|cp_degree",
        instead="tensor_parallel_size and pipeline_parallel_size, which keep a sequence's tokens together; "
        "in training sequence_parallel is Megatron's",
    ),
    NotModelled(
        technique="expert parallelism (whole experts on different GPUs)",
        words=r".*expert_(model_|tensor_)?parallel.*|(enable_)?(moe_)?ep(_size|_degree)?|(enable_)?eplb.*|.*deepep.*"
        r"|(enable_)?(ep_moe|wide_?ep|large_ep).*"
        r"|.*redundant_experts|expert_(placement|load|distribution).*|(moe_)?a(ll)?2a(ll)?(_backend)?"
        r"|moe_cluster.*|moe_(tp|tensor_parallel|dp|dense_tp)(_size)?|num_experts_per_(gpu|rank)",
        instead="tensor_parallel_size, which splits every expert; experts receive tokens evenly",
    ),
    NotModelled(
        technique="data parallelism inside one replica",
        words=r"data_parallel.*|(enable_)?dp(_size|_attention|_rank.*|_backend|_degree)?|attention_dp"
        r"|enable_attention_dp",
        instead="replicas and routing (whole engines side by side); in training num_workers",
    ),
    NotModelled(
        technique="KV connectors (NIXL, LMCache, Mooncake) for disaggregation or offload",
        words=r"kv_(transfer|connector|role|rank|ip|port|parallel_size).*|kv_buffer.*|nixl.*|mooncake_(store|connector).*"
        r"|kv_cache_transfer.*|cache_transceiver.*",
        instead="KV in the memory of the GPUs that computed it; prefill and decode on the same GPUs",
    ),
    NotModelled(
        technique="prefill and decode on different GPUs (disaggregation)",
        words=r".*disagg.*|pd(_.*)?|xpyd|roles?|pools?|(num_)?(prefill|decode|context|ctx|generation)_(replicas|instances"
        r"|workers|gpus|servers?|engines?|pool|hardware|tp.*|tensor_parallel.*|nodes?|config)|(prefill|decode)(_only|_mode)"
        r"|(engine|replicas|hardware|pools?|roles?|instances|disaggregation)?/(prefill|decode)",
        instead="prefill and decode on the same GPUs: schedule_order, enable_chunked_prefill, "
        "prefill_schedule_interval",
    ),
    NotModelled(
        technique="offload to host memory or disk, and swapping",
        words=r".*offload.*|.*flexkv.*|swap(_.*)?|preemption_mode|.*hicache.*|.*hierarchical_cache.*|lmcache.*|num_cpu_blocks"
        r"|(num_)?cpu_(kv|cache|blocks|swap).*|host_(cache|kv).*|kv_location|kv_(tier|host|disk|dram|cpu).*|nvme.*|gds"
        r"|zero_infinity|pin_memory",
        instead="a preempted request is computed again; kernel.kv_location: dram prices K and V over "
        "the host link; training saves memory by activation_checkpointing and zero_stage",
    ),
    NotModelled(
        technique="drafts by a model (a draft model, EAGLE, MTP, Medusa), lookahead and tree drafts",
        words=r"eagle.*|.*mtp.*|medusa.*|.*draft.*|.*lookahead.*|lade|speculative_(model|algorithm|eagle|num|token).*"
        r"|spec(ulative)?(_config|_decoding)?/(model|.*_model|algorithm|quantization|revision|max_model_len|eagle.*"
        r"|tensor_parallel_size)|dflash.*|suffix(_.*)?|mlp_speculator|nextn.*|self_speculative.*|hydra|token_tree.*",
        instead="engine.speculative with method: ngram, num_speculative_tokens and acceptance_rate",
    ),
    NotModelled(
        technique="how n-gram drafts are looked up, and when they are left off",
        words=r"(ngram_)?prompt_lookup_(max|min|num|window).*|ngram_(max|min|prompt)_.*|(speculative_)?disable_by_batch_size"
        r"|speculative_disable.*",
        instead="acceptance_rate, which is given, and num_speculative_tokens at every step",
    ),
    NotModelled(
        technique="optimizers with other states (8-bit, paged, factored, second-order)",
        words=r".*(8bit|4bit|fp8)_?(adam|adamw|optimizer|optim|sgd|lion).*|.*(adam|adamw|sgd|lion|optimizer|optim)_?(8bit|4bit"
        r"|fp8|bnb|anyprecision|mini).*|paged_.*adam.*|adamw?_?bnb.*|adafactor|lion.*|lamb|lars|muon|shampoo|soap|sophia"
        r"|galore.*|apollo.*|came|adagrad|rmsprop|adadelta|adamax|radam|nadam|ademamix|.*stable_adamw|schedule_free.*"
        r"|distributed_shampoo|lbfgs|(1|one|zero_one)_?bit_?(adam|lamb)|onebit.*|zero_one_adam",
        instead="optimizer: adamw (8 bytes of states a parameter), sgd_momentum (4) or sgd (0)",
    ),
    NotModelled(
        technique="sharding over a part of the workers (hybrid sharding, ZeRO++)",
        words=r"zero_(shard|hpz|partition|group|quantized|plus.*|pp|dp|replica).*|.*hsdp.*|hybrid_(shard|zero).*"
        r"|_hybrid_shard.*|shard(ing)?_(size|degree|group|strategy).*|mics.*|hpz.*|.*(replicate|shard)_degree"
        r"|fsdp_(size|shard|group|unit|replicate).*|num_distributed_optimizer_instances|zeropp|zero_\+\+|dp_replicate.*"
        r"|dp_shard.*",
        instead="zero_stage 0 to 3, sharded over all workers",
    ),
    NotModelled(
        technique="4- and 6-bit floats, and formats with a scale per block (MX, NVFP4, GGUF)",
        words=r"(nv|mx)?_?fp(4|6)(_.*)?|float(4|6)(_.*)?|.*nvfp4.*|.*mxfp.*|mxint.*|mxfp8|nf4|.*gguf.*|q[2-8]_k?.*|hqq|aqlm|quip.*"
        r"|exl2|exllama.*|bnb_4bit.*|fp4_.*|uint4",
        instead="quantization: fp8, int8 (weights and activations) or int4 (weights only); a kernel's "
        "weight_bits; training's fp8",
    ),
    NotModelled(
        technique="64-bit floats",
        words=r"float64|fp64|double|f64",
        instead="float32 and the narrower types that the key takes",
    ),
    NotModelled(
        technique="integers of other widths, and 8-bit integers where quantization is not the key",
        words=r"u?int(1|2|3|5|6|8|16|32)(_.*)?|w(8a16|4a8|4a4|6a6|2a16|3a16)(_.*)?|ternary|bitnet.*|b1_58",
        instead="engine.quantization: int8 (W8A8) or int4 (W4A16); a kernel's weight_bits",
    ),
    NotModelled(
        technique="sparse, linear and approximate attention, and dropping KV entries",
        words=r".*sparse_attention.*|.*linear_attention.*|block_sparse.*|nsa|dsa|moba|minference|streaming_llm|h2o|snapkv"
        r"|kivi|quest|attention_sinks?|kv_(eviction|compression|pruning|sparsity).*|performer|reformer|longformer|linformer",
        instead="attention over every key of the window that the model's config.json states",
    ),
    NotModelled(
        technique="LoRA adapters of a served model",
        words=r"enable_lora.*|(max_)?lora_(modules|rank|adapters|dtype|paths|extra.*)|max_loras?.*|max_cpu_loras|loras?"
        r"|num_loras|multi_lora|s_lora|max_lora_rank|fully_sharded_loras",
        instead="the base model alone; training.lora trains adapters",
    ),
    NotModelled(
        technique="adapters other than LoRA",
        words=r"dora|use_dora|rs_?lora|use_rslora|ia3|prefix_tuning|prompt_tuning|p_tuning.*|bitfit|lora_plus|vera|loha|lokr"
        r"|adalora|adapter_tuning",
        instead="training.lora",
    ),
    NotModelled(
        technique="images, audio and video",
        words=r".*multi_?modal.*|(limit_)?mm_.*|images?(_.*)?|num_images|audios?(_.*)?|videos?(_.*)?|vision(_.*)?"
        r"|encoder_cache.*|disable_mm.*",
        instead="the language model of such a model; count an image's tokens as prompt_tokens",
    ),
    NotModelled(
        technique="structured output",
        words=r"guided_.*|structured_output.*|grammar.*|json_schema|response_format|xgrammar|outlines|tool_call.*",
        instead="answers of the length that output_tokens draws",
    ),
    NotModelled(
        technique="what is sampled: temperature, beams, several answers to a prompt",
        words=r"temperature|top_[pk]|min_p|n|best_of|beam.*|num_beams|use_beam_search|.*_penalty|logprobs|prompt_logprobs"
        r"|ignore_eos|parallel_sampling|num_return_sequences|stop_token.*|stop",
        instead="lengths that are given (output_tokens), and a sampling step that costs the same for all",
    ),
    NotModelled(
        technique="several steps per scheduling, and two batches that overlap on one GPU",
        words=r"num_scheduler_steps|multi_step.*|(enable_)?dbo(_.*)?|(dual|two)_batch_overlap|(enable_)?two_batch.*|tbo"
        r"|u?batch_overlap|enable_ubatch.*|nanoflow",
        instead="one batch a step; async_scheduling hides host time behind it",
    ),
    NotModelled(
        technique="limits on how many prompts are split at a time",
        words=r"max_(num|long)_partial_prefills|num_partial_prefills|max_prefill_(seqs|requests)",
        instead="long_prefill_token_threshold and max_num_batched_tokens",
    ),
    NotModelled(
        technique="a choice of CUDA graphs or of what is compiled",
        words=r".*cuda_?graphs?.*|enforce_eager|compilation.*|enable_torch_compile|use_inductor|cg_.*",
        instead="host time per step: engine.profile, or engine.overheads",
    ),
    NotModelled(
        technique="autoscaling, and replicas that come and go",
        words=r"auto_?scal.*|(min|max)_?replicas|(scale|scaling)_(up|down|out|in|policy).*|hpa.*|keda.*|spot.*",
        instead="a fixed number of replicas; `gpuyard sweep --over replicas=1,2,4` finds how many",
    ),
    NotModelled(
        technique="routing by a replica's cache, session or prompt",
        words=r"rout(ing|er)(_policy|_mode)?/(kv.*|bucket|manual|.*(prefix|cache|session|affinity|hash|lora).*)|kv_events.*"
        r"|(kv_|prefix_|cache_|session_|lora_)+(aware|affinity|routing|router|hit).*|sticky.*"
        r"|consistent_hash.*|power_of_(two|2)(_.*)?|p2c|semantic.*|prefix_?hash.*|rendezvous.*|weighted.*",
        instead="routing: round_robin, least_loaded or shared_queue",
    ),
    NotModelled(
        technique="routing at random",
        words=r"rout(ing|er)(_policy|_mode)?/random|random_rout.*",
        instead="routing: round_robin, least_loaded or shared_queue",
    ),
    NotModelled(
        technique="prices of tokens and of cached prompts",
        words=r".*(token|prompt|cached?|cache_(read|write)|input|output)s?_.*(price|usd|cost|discount).*"
        r"|(price|usd|cost)s?_per_.*token.*|prompt_cach(e|ing).*|.*cache_(ttl|write|read|control).*|pricing"
        r"|prices?|costs?|(prices?|pricing|costs?)/.*",
        instead="the cost of the devices (usd_per_hour) over their tokens, and enable_prefix_caching",
    ),
    NotModelled(
        technique="clocks and power that change, and limits on them",
        words=r"power_(limit|cap).*|max_power.*|dvfs.*|clock_(limit|cap|lock).*|boost.*|throttl.*|thermal.*",
        instead="the profile's constant clock_hz",
    ),
    NotModelled(
        technique="compressed gradients, and workers without a common average (gossip, DiLoCo)",
        words=r".*powersgd.*|.*compress(ion|ed|or|_hook).*|top_?k_?(sgd|gradients?|sparsif.*)|.*sparsif.*|dgc|qsgd|signsgd|terngrad"
        r"|gossip.*|ad_?psgd|easgd|(open_)?diloco|swarm|slowmo|decentrali[sz]ed|quantized_(gradients?|allreduce|all_reduce)",
        instead="whole gradients: sync.scheme (bsp, ssp, asp, k_sync, k_async, local_sgd) and "
        "exchange.algorithm",
    ),
    NotModelled(
        technique="pipeline schedules other than 1F1B (GPipe, zero-bubble, DualPipe)",
        words=r"gpipe|zero_bubble.*|zb_?(h1|h2|v).*|dual_?pipe.*|pipedream.*|chimera|pipeline_schedule.*|hanayo|afab"
        r"|pp_schedule.*|schedule_type",
        instead="1F1B, interleaved by virtual_pipeline_size",
    ),
    NotModelled(
        technique="reinforcement learning: rollouts, reward models",
        words=r"rlhf|rl|grpo|ppo|dpo|rollouts?(_.*)?|reward_model.*|reinforce.*|num_generations",
        instead="kind: serving and kind: training, each for itself",
    ),
)  # fmt: skip


def not_modelled(word: object, section: str = "") -> NotModelled | None:
    """The technique that a key or a value asks for, where it is one that is not modelled.

    ``section`` is the key that it stands in: a model is one thing at the top, another one in ``speculative``.
    """
    folded = _folded(word)
    asked = (folded, f"{_folded(section)}/{folded}")
    return next((one for one in NOT_MODELLED if any(re.fullmatch(one.words, each) for each in asked)), None)


def asked_by(value: object, section: str) -> NotModelled | None:
    """The same of all that stands in ``section``: the first of its keys and values that asks for any."""
    if isinstance(value, str):
        return not_modelled(value, section)
    if isinstance(value, Mapping):
        found = (not_modelled(name, section) or asked_by(item, str(name)) for name, item in value.items())
        return next(filter(None, found), None)
    if isinstance(value, (list, tuple)):
        return next(filter(None, (asked_by(item, section) for item in value)), None)
    return None


def _folded(word: object) -> str:
    return re.sub(r"[\s.\-/]+", "_", str(word)[:100].strip().casefold())


def unknown_word(what: str, word: object, options: Iterable[str], section: str = "") -> str:
    """``"unknown WHAT; did you mean X?"``, or the entry of ``NOT_MODELLED`` that the word asks for.

    A plain slip of the finger (loras for lora) goes before the list, what merely reads alike comes after it.
    """
    options = list(options)
    missing = None if closest(word, options, cutoff=A_SLIP) else asked_by(word, section)
    return str(missing) if missing else f"unknown {what}{did_you_mean(word, options)}"


def meant(word: object, options: Iterable[str], section: str = "") -> str:
    """The option that a hint may name: none where the word asks for what is not modelled."""
    options = list(options)
    slip = closest(word, options, cutoff=A_SLIP)
    return slip or ("" if asked_by(word, section) else closest(word, options) or "")


def not_modelled_text() -> str:
    """The whole list, a line per technique."""
    return "\n".join(str(one) for one in NOT_MODELLED)
