"""Is the result right? Against a float64 reference, on a sample where the whole is too large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from kernels.launch import KernelSpec

MAX_RELATIVE_ERROR = (
    1e-2  # Euclidean norm; bfloat16 rounds at 2^-9, P and dS of attention before a product too
)
SAMPLE_ROWS = 16
SAMPLE_SEQUENCES = 2
MAX_BACKWARD_TOKENS = 4096  # autograd in float64 keeps several T × T matrices

Inputs = Mapping[str, Any]
Outputs = tuple[Any, ...]


class WrongResultError(RuntimeError):
    """A kernel that gives wrong numbers is not timed."""


def relative_error(
    kernel: KernelSpec, inputs: Inputs, call: Callable[[Inputs], Any] | None = None
) -> float | None:
    """‖value − truth‖ / ‖truth‖, the worst of the outputs; None where the reference would not fit."""
    if kernel.name == "flash_attention_backward" and inputs["do_BHTD"].shape[2] > MAX_BACKWARD_TOKENS:
        return None
    own = {name: value.clone() if name == "residual_MN" else value for name, value in inputs.items()}
    values = outputs(kernel.launch(**own) if call is None else call(own))
    few, values = SAMPLES.get(kernel.name, whole)(dict(inputs), values)
    truths = outputs(kernel.reference(**few))
    return max(error(value, truth) for value, truth in zip(values, truths, strict=False))


def check(name: str, found: float | None, most: float = MAX_RELATIVE_ERROR) -> None:
    """Refuse wrong results, NaN among them."""
    if found is not None and not found < most:
        raise WrongResultError(f"{name}: relative error {found:.2g}; the limit is {most}")


def error(value: Any, truth: Any) -> float:
    """‖value − truth‖ / ‖truth‖ in float64."""
    return float((value.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-300))


def outputs(given: Any) -> Outputs:
    """A tuple, also of one."""
    return given if isinstance(given, tuple) else (given,)


def whole(inputs: dict[str, Any], values: Outputs) -> tuple[dict[str, Any], Outputs]:
    """Nothing left out."""
    return inputs, values


def few_rows(inputs: dict[str, Any], values: Outputs) -> tuple[dict[str, Any], Outputs]:
    """Some rows of A, all columns."""
    M = inputs["a_MK"].shape[0]
    rows = torch.linspace(0, M - 1, min(M, SAMPLE_ROWS), device=inputs["a_MK"].device).long()
    A = inputs["a_MK"]
    picked = A.float()[rows] if A.element_size() == 1 else A[rows]
    return {**inputs, "a_MK": picked}, (values[0][rows],)


def one_head(inputs: dict[str, Any], values: Outputs) -> tuple[dict[str, Any], Outputs]:
    """The last query head of the first prompt."""
    last = {"q_BHTD": inputs["q_BHTD"][:1, -1:]}
    keys = {name: inputs[name][:1, -1:] for name in ("k_BGSD", "v_BGSD")}
    return {**inputs, **last, **keys}, tuple(value[:1, -1:] for value in values)


def one_group(inputs: dict[str, Any], values: Outputs) -> tuple[dict[str, Any], Outputs]:
    """The first key/value head of the first prompt, with its query heads."""
    q, k, v, o, lse = inputs["forward"]
    heads = q.shape[1] // k.shape[1]
    forward = (q[:1, :heads], k[:1, :1], v[:1, :1], o[:1, :heads], lse[:1, :heads])
    dq, dk, dv = values
    few = {**inputs, "forward": forward, "do_BHTD": inputs["do_BHTD"][:1, :heads]}
    return few, (dq[:1, :heads], dk[:1, :1], dv[:1, :1])


def few_sequences(inputs: dict[str, Any], values: Outputs) -> tuple[dict[str, Any], Outputs]:
    """The first and the last sequence of a batch."""
    B = inputs["q_BHD"].shape[0]
    rows = sorted({0, B - 1})[:SAMPLE_SEQUENCES]
    few = {name: inputs[name][rows] for name in ("q_BHD", "table_BP", "context_B")}
    return {**inputs, **few}, (values[0][rows],)


SAMPLES: Mapping[str, Callable[[dict[str, Any], Outputs], tuple[dict[str, Any], Outputs]]] = {
    "matmul": few_rows,
    "int4_matmul": few_rows,
    "flash_attention": one_head,
    "standard_attention": one_head,
    "flash_attention_backward": one_group,
    "paged_decode_attention": few_sequences,
}
