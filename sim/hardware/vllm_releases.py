"""What vLLM releases take by default, and what each sets aside at start-up: one list of changes.

A release is the sum of the changes up to it. Bytes and shares that nobody has measured of a release say so in
``unmeasured``. Sources: vLLM 0.33.0's own files, and public start-up logs of the releases that are named.
Not modelled: releases before 0.6, and settings that another back end (ROCm, TPU, CPU) changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from sim.errors import ScenarioError
from sim.scenario.dataclass import dataclass

LATEST = "0.33.0"
Sampler = Literal["pytorch", "flashinfer", "triton"]
"""PyTorch sorts all logits, FlashInfer masks a copy, Triton filters in place."""
SamplerChoice = Literal["auto", "pytorch", "flashinfer", "triton"]
Usage = Literal["server", "offline"]
PerformanceMode = Literal["balanced", "throughput"]
GIB = 2**30


class DeviceDefault(int):
    """A size left to its default: a small device's, until the device is known."""


class ReleaseDefault(float):
    """A share left to its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmRelease:
    """Defaults and the memory account of one release. GiB and shares are of one GPU."""

    gpu_memory_utilization: float = 0.90
    many_sequences: int = 256  # where memory is large (``sizes``)
    sampler: Sampler = "pytorch"
    bytes_per_logit: tuple[tuple[Sampler, int], ...] = ()
    """By sampler: bytes beside a logit in the model's own type, at its worst moment."""
    hidden_rows: int = 3
    """Of hidden_size for every token, beside the widest part of a layer."""
    has_triton_experts: bool = False
    """Experts in mxfp4 run in Triton's kernels on Hopper, before in Marlin's, which pads them more."""
    keeps_expert_workspace: bool = False
    """The experts' two buffers are made once and stay: they add to the sampler's moment."""
    keeps_sampler_state: bool = False
    """Counts of every vocabulary entry for every sequence lie on the GPU (the V2 runner's penalties)."""
    non_torch_gib: float = 0.13
    non_torch_gib_before_hopper: float = 0.13
    non_torch_gib_of_tensor_parallel: float = 0.55
    non_torch_gib_of_a_stage: float = 0.07
    graphs_are_in_share: bool = False
    warm_up_is_outside: bool = False
    """The sampler warms up when the KV cache is there. What the profile run's peak set aside is free for it,
    but beside experts in mxfp4 it failed (0.19)."""
    counts_batches_in_flight: bool = False
    """Windows reserve every batch under way (asynchronous scheduling: two), not one."""
    reserves_null_block: bool = False
    caches_states: bool = False
    """Prefix caching is on for models with recurrent states ("align"), which then take several pages."""
    keeps_checkpoints: bool = False
    """Mamba-2 and gated delta nets keep states of a prompt under way: a page more (0.27 had none)."""
    delta_alignment: int = 16
    """Tokens that a block beside cached delta nets is a multiple of (0.27: 1,568)."""
    latent_alignment: int = 64
    """Tokens that a block of latent attention beside states is a multiple of."""
    prints_tokens_of_groups: bool = True
    """The log's "GPU KV cache size": blocks / groups x block; later maximum concurrency x max_model_len."""
    runs_asynchronously: bool = False
    unmeasured: tuple[str, ...] = ()

    def bytes_beside_a_logit(self, sampler: str) -> int:
        """At the worst moment of this sampler."""
        return next(count for name, count in self.bytes_per_logit if name == sampler)


# Sorting float32 logits for top-k and top-p: the copy 4, sorted values 4, their int64 indices 8, the sort's
# input indices 8, its scratch 4 + 8. Logs say, peak over max_num_seqs x vocabulary, logits included: 0.6 41
# (vllm#10511) and 39 (vllm#13882), 0.9 40 (vllm#21489), 0.11 to 0.16 38 in seven starts.
_SORT = 4 + 4 + 8 + 8 + (4 + 8)
# 0.17 to 0.19: three float32 copies and a mask; 14.9 to 15.9 with the logits in 20 starts on H100.
_THREE_COPIES = 4 + 4 + 4 + 1
# FlashInfer's, one masked copy and its softmax (0.10.1 on A100: about 10 with the logits); 0.33 makes its own
# float32 copy first, and one more copy may lie inside of FlashInfer.
_FLASHINFER_OF_OLD, _FLASHINFER = 4 + 4, 4 + 4 + 4


def _bytes(**by_sampler: int) -> tuple[tuple[str, int], ...]:
    return tuple(by_sampler.items())


CHANGES: tuple[tuple[tuple[int, int], Mapping[str, Any]], ...] = (
    ((0, 6), {"bytes_per_logit": _bytes(pytorch=_SORT, flashinfer=_FLASHINFER_OF_OLD, triton=4)}),
    ((0, 8), {"many_sequences": 1024, "hidden_rows": 4}),
    ((0, 11), {"has_triton_experts": True}),  # gpt-oss-120b: 65.97 GiB by 0.10, 64.38 by 0.11
    ((0, 14), {"runs_asynchronously": True}),
    (
        (0, 17),
        {
            "bytes_per_logit": _bytes(pytorch=_THREE_COPIES, flashinfer=_FLASHINFER_OF_OLD, triton=4),
            "keeps_expert_workspace": True,
            "warm_up_is_outside": True,
        },
    ),
    (
        (0, 18),
        {
            # 30 starts on H100 (two Granites 0.46); 0.62 on an RTX 4090, 0.66 on an A100.
            "non_torch_gib": 0.25,
            "non_torch_gib_before_hopper": 0.63,
            "non_torch_gib_of_tensor_parallel": 2.1,
        },
    ),
    (
        (0, 20),
        {
            "counts_batches_in_flight": True,
            "caches_states": True,
            "prints_tokens_of_groups": False,
            "unmeasured": (
                "from which release on windows reserve two batches and states several pages is not known: "
                "0.19 did not, 0.33 does",
            ),
        },
    ),
    ((0, 21), {"graphs_are_in_share": True, "warm_up_is_outside": False}),
    ((0, 22), {"gpu_memory_utilization": 0.92}),
    (
        (0, 33),
        {
            "sampler": "flashinfer",
            "bytes_per_logit": _bytes(pytorch=_SORT, flashinfer=_FLASHINFER, triton=4),
            "keeps_sampler_state": True,
            "reserves_null_block": True,
            "keeps_checkpoints": True,
            "delta_alignment": 64,
            "latent_alignment": 128,
            "unmeasured": (
                "no start of 0.33 was measured: its activation peak, non-torch growth and graph estimate are "
                "read from its code or taken from 0.19",
            ),
        },
    ),
)


OLDEST, NEWEST = CHANGES[0][0], CHANGES[-1][0]


def version_of(text: str) -> tuple[int, int] | None:
    """Major and minor number ("0.15.2rc1", "0.6.x"); None where the text says none."""
    found = re.match(r"v?(\d+)\.(\d+)(?=$|[^\d])", text.strip())
    return (int(found[1]), int(found[2])) if found else None


def is_known_release(text: str) -> bool:
    """Whether the account of that release is modelled."""
    version = version_of(text)
    return version is not None and OLDEST <= version <= NEWEST


def allowed_releases() -> str:
    """In words."""
    (old, older), (new, newer) = OLDEST, NEWEST
    return f"{old}.{older} to {new}.{newer}"


@lru_cache(maxsize=64)  # asked for by every line of an account
def release_of(text: str) -> VllmRelease:
    """All changes up to that release; of an unknown one, up to the latest."""
    version = version_of(text) or NEWEST
    found = VllmRelease()
    for since, changed in CHANGES:
        if since <= version:
            found = replace(found, **changed)
    return found


# The last release with a model class of its own, by model_type (0.33's ``_PREVIOUSLY_SUPPORTED_MODELS``).
# Models whose code is on their page only, or that Transformers cannot run for vLLM, are refused after it.
REFUSED_AFTER: Mapping[str, tuple[int, int]] = {
    "phi3small": (0, 9),
    "motif": (0, 10),
    "phi4flash": (0, 10),
    "mllama": (0, 10),
    "mllama_text_model": (0, 10),
    "jais": (0, 22),
    "bamba": (0, 23),
    "baichuan": (0, 23),
    "internlm": (0, 23),
    "minimax_m1": (0, 23),
    "minimax_text_01": (0, 23),
    "qwen": (0, 23),
    "xverse": (0, 23),
    "aquila": (0, 24),
    "grok-1": (0, 24),
    "telechat": (0, 25),
    "ouro": (0, 26),
    "plamo2": (0, 26),
    "arctic": (0, 28),
    "mpt": (0, 28),
}
# The others that it lost: Transformers' own classes may stand in.
BY_TRANSFORMERS_AFTER: Mapping[str, tuple[int, int]] = {
    "dots1": (0, 23),
    "minimax": (0, 23),
    "fuyu": (0, 25),
    "persimmon": (0, 25),
    "chameleon": (0, 28),
}


def check_architecture(architecture: str, name: str, release: str) -> None:
    """Refuse a model that this release of vLLM no longer loads."""
    last = REFUSED_AFTER.get(architecture)
    if last is None or (version_of(release) or NEWEST) <= last:
        return
    until = f"{last[0]}.{last[1]}"
    raise ScenarioError(
        f"vLLM {release} has no {architecture} any more: {name} was served until {until}",
        path="engine.vllm_version",
        given=release,
        allowed=f"up to {until} for this model",
        hint=f"engine.vllm_version: {until}",
    )


def dropped_notes(architecture: str, release: str) -> tuple[str, ...]:
    """What is to be said where Transformers' class stands in for vLLM's own."""
    last = BY_TRANSFORMERS_AFTER.get(architecture)
    if last is None or (version_of(release) or NEWEST) <= last:
        return ()
    return (
        f"vLLM has no {architecture} of its own after {last[0]}.{last[1]}: {release} refuses it, or serves "
        "it by Transformers' class, whose memory is not known",
    )


def default_sizes(
    release: VllmRelease,
    hbm_bytes: float,
    device: str,
    usage: Usage = "server",
    mode: PerformanceMode = "balanced",
) -> dict[str, int]:
    """Sequences and tokens of a step, where none are said; ``throughput`` doubles both.

    The A100 and GB10 count as small whatever their memory. From when on 160 GiB are a class of their own is
    not known of the older releases.
    """
    name, times = device.lower(), 2 if mode == "throughput" else 1
    is_large = hbm_bytes >= 70 * GIB and "a100" not in name and "gb10" not in re.split(r"[^a-z0-9]+", name)
    if not is_large:
        tokens = 8192 if usage == "offline" else 2048
        return {"max_num_seqs": times * 256, "max_num_batched_tokens": times * tokens}
    is_offline = usage == "offline" or hbm_bytes >= 160 * GIB
    tokens = 16384 if is_offline else 8192
    return {"max_num_seqs": times * release.many_sequences, "max_num_batched_tokens": times * tokens}
