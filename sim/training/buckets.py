"""DistributedDataParallel's gradient buckets, and how far their all-reduce hides behind the backward pass.

Gradients become ready from the last layer to the first. PyTorch fills buckets in that order: the first up to
1 MiB, the others up to ``bucket_cap_mb`` (torch/nn/parallel/distributed.py,
``_compute_bucket_assignment_by_size``), and reduces them one after another on one stream:

    done_k = max(done_{k-1}, ready_k) + all_reduce(bucket_k)
    step = forward + max(backward, done_last) + optimizer

Not modelled: buckets that wait for an unused parameter, and gradients copied into and out of buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Gradients that travel together, all there when ``ready_fraction`` of the backward pass has gone by."""

    num_bytes: int
    ready_fraction: float


def fill_buckets(sizes: Sequence[int], first_bucket_bytes: float, bucket_cap_bytes: float) -> list[list[int]]:
    """Indices of ``sizes`` (in the order in which gradients become ready) by bucket.

    As in PyTorch a bucket is closed by the tensor that takes it to its cap or beyond it.
    """
    filled: list[list[int]] = []
    current: list[int] = []
    held = 0
    for index, size in enumerate(sizes):
        current.append(index)
        held += size
        if held >= (first_bucket_bytes if not filled else bucket_cap_bytes):
            filled.append(current)
            current, held = [], 0
    return [*filled, current] if current else filled


def gradient_buckets(
    sizes: Sequence[int], backward_s: Sequence[float], first_bucket_bytes: float, bucket_cap_bytes: float
) -> tuple[Bucket, ...]:
    """The buckets of parameters in *forward* order, with the backward time of each.

    A gradient is ready when the backward pass of its part is over. Without any backward time all are
    ready at once, at its end.
    """
    order = [index for index in reversed(range(len(sizes))) if sizes[index] > 0 or backward_s[index] > 0]
    total = sum(backward_s)
    gone = 0.0
    ready = []
    for index in order:
        gone += backward_s[index]
        ready.append(min(1.0, gone / total) if total > 0 else 1.0)
    ordered = [sizes[index] for index in order]
    buckets = [
        Bucket(num_bytes=sum(ordered[i] for i in one), ready_fraction=ready[one[-1]])
        for one in fill_buckets(ordered, first_bucket_bytes, bucket_cap_bytes)
    ]
    return tuple(bucket for bucket in buckets if bucket.num_bytes > 0)


def overlap(ready_ps: Sequence[int], all_reduce_ps: Sequence[int]) -> list[int]:
    """When each bucket's all-reduce is done: the recursion above, on one communication stream."""
    done: list[int] = []
    free = 0
    for ready, duration in zip(ready_ps, all_reduce_ps, strict=True):
        free = max(free, ready) + duration
        done.append(free)
    return done
