"""What PyTorch's eager attention holds at its peak: its tensors in the order in which they come and go.

The code is ``attention_pytorch`` of FlashAttention's benchmark_flash_attention.py, timed with
``retain_graph=True``: what autograd saved stays until the end. Per head, N² is queries × keys:

    forward    S (new) · mask as float32 and its cast, once for all heads (new) · S + mask (new), S goes
               · P = softmax (new) · dropped P and its byte mask (new) · return: scores and mask go,
               P and the dropped P with its mask stay for the backward pass
    backward   dP (new) · dropout's gradient (new), dP goes · the product dP ∘ P (new) and dS (new) beside
               each other: softmax_backward_cuda_out in PyTorch's SoftMax.cu · the product and dP go

So the backward pass holds four N² tensors (P, dP, dP ∘ P, dS), five and a half with dropout.
FlashAttention's appendix E.6 measures 4 N² + 10 N d at every length (MB of 2^20 bytes, 36 to 17,024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation: the tensors that it makes (bytes by name), and those that are freed after it."""

    name: str
    makes: Mapping[str, int] = field(default_factory=dict)
    frees: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Squares:
    """Sizes of the N × N tensors of all heads, and of the one mask that all heads share."""

    scores: int  # elements
    element_bytes: int
    mask_elements: int  # 0: no mask
    has_dropout: bool

    @property
    def square_bytes(self) -> int:
        """One N × N tensor of all heads."""
        return self.scores * self.element_bytes


def forward_steps(sizes: Squares) -> Iterator[Step]:
    """Scores, mask, softmax, dropout, and the return."""
    square = sizes.square_bytes
    scores, left = "s", ["s"]
    yield Step(name="q k", makes={"s": square})
    if sizes.mask_elements:
        mask = {
            "mask_f32": sizes.mask_elements * FLOAT32_BYTES,
            "mask": sizes.mask_elements * sizes.element_bytes,
        }
        yield Step(name="build mask", makes=mask)
        scores, left = "s_masked", ["mask_f32", "mask", "s_masked"]
        yield Step(name="add mask", makes={"s_masked": square}, frees=("s",))
    yield Step(name=f"softmax of {scores}", makes={"p": square})
    if sizes.has_dropout:
        yield Step(name="dropout", makes={"p_dropped": square, "dropout_mask": sizes.scores})
    yield Step(name="return", frees=tuple(left))


def backward_steps(sizes: Squares) -> Iterator[Step]:
    """Gradients of the probabilities, of dropout and of the scores; P is there from the forward pass."""
    square = sizes.square_bytes
    gradient = "dp"
    yield Step(name="do v", makes={"dp": square})
    if sizes.has_dropout:
        gradient = "dp_kept"
        yield Step(name="dropout backward", makes={"dp_kept": square}, frees=("dp",))
    yield Step(name="softmax backward", makes={"dp_p": square, "ds": square}, frees=("dp_p", gradient))
    yield Step(name="ds k, ds q", frees=("ds",))


def peak_bytes(sizes: Squares, *, forward: bool, backward: bool) -> int:
    """The most that is held at once; a backward pass alone starts from what its forward pass left."""
    held: dict[str, int] = {}
    before = _play(held, forward_steps(sizes))
    after = _play(held, backward_steps(sizes)) if backward else 0
    return max(before if forward else 0, after)


def _play(held: dict[str, int], steps: Iterator[Step]) -> int:
    """Runs the steps on what is held; the peak on the way."""
    peak = sum(held.values())
    for step in steps:
        held.update(step.makes)
        peak = max(peak, sum(held.values()))
        for name in step.frees:
            del held[name]
    return peak
