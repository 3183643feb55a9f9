"""The libraries beside our kernels, on the same inputs: what PyTorch has for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Inputs = Mapping[str, Any]
BACK_ENDS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}


def library_call(kernel: str, provider: str) -> Callable[[Inputs], Any]:
    """The function of inputs that ``provider`` has for ``kernel``."""
    if provider in BACK_ENDS:
        return SDPA[kernel](BACK_ENDS[provider])
    return LIBRARIES[kernel, provider]


def torch_matmul(given: Inputs) -> Any:
    """cuBLAS; 8-bit floats by ``_scaled_mm`` with scales of 1."""
    a, b = given["a_MK"], given["b_KN"]
    if a.element_size() > 1:
        return a @ b
    one = torch.ones((), dtype=torch.float32, device=a.device)
    return torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def torch_rms_norm(given: Inputs) -> Any:
    """The residual is added and kept by a kernel of its own, as unfused code does."""
    x, weight = given["x_MN"], given["w_N"]
    if "residual_MN" in given:
        x = given["residual_MN"].add_(x)
    return F.rms_norm(x, weight.shape, weight, 1e-5)


def sdpa_forward(back_end: SDPBackend) -> Callable[[Inputs], Any]:
    """One SDPA back end; the causal square only (T = S), which is what is measured."""

    def call(given: Inputs) -> Any:
        q, k, v = given["q_BHTD"], given["k_BGSD"], given["v_BGSD"]
        with sdpa_kernel(back_end):
            is_gqa = q.shape[1] != k.shape[1]
            return F.scaled_dot_product_attention(q, k, v, is_causal=given["is_causal"], enable_gqa=is_gqa)

    return call


def sdpa_backward(back_end: SDPBackend) -> Callable[[Inputs], Any]:
    """Gradients by autograd. The forward pass runs once per inputs, and is not in the time."""
    kept: dict[int, tuple[Any, tuple[Any, ...]]] = {}

    def call(given: Inputs) -> Any:
        q, k, v = given["forward"][:3]
        if id(q) not in kept:
            leaves = tuple(one.detach().requires_grad_() for one in (q, k, v))
            attention = {"q_BHTD": leaves[0], "k_BGSD": leaves[1], "v_BGSD": leaves[2]}
            kept[id(q)] = sdpa_forward(back_end)({**attention, "is_causal": given["is_causal"]}), leaves
        o, leaves = kept[id(q)]
        return torch.autograd.grad(o, leaves, given["do_BHTD"], retain_graph=True)

    return call


def sdpa_unpaged(given: Inputs) -> Any:
    """Decoding on keys and values laid out without blocks, all contexts as long as the longest.

    Not the same numbers as the paged kernel's (it sees other keys): for time beside it, not for truth.
    """
    q, (k, v) = given["q_BHD"], given["cache"]
    B, H, D = q.shape
    G, tokens = k.shape[2], given["table_BP"].shape[1] * k.shape[1]
    keys, values = (one.reshape(B, tokens, G, D).transpose(1, 2) for one in (k, v))
    return F.scaled_dot_product_attention(q[:, :, None], keys, values, enable_gqa=H != G)


SDPA: Mapping[str, Callable[[SDPBackend], Callable[[Inputs], Any]]] = {
    "flash_attention": sdpa_forward,
    "flash_attention_backward": sdpa_backward,
}
LIBRARIES: Mapping[tuple[str, str], Callable[[Inputs], Any]] = {
    ("matmul", "torch"): torch_matmul,
    ("rms_norm", "torch"): torch_rms_norm,
    ("copy", "torch"): lambda given: given["x"].clone(),
    ("triad", "torch"): lambda given: torch.add(given["a"], given["b"], alpha=3.0),
    ("paged_decode_attention", "sdpa_unpaged"): sdpa_unpaged,
}
