"""From a point of the plan to something that can be checked and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from calibrate.measure.correctness import MAX_RELATIVE_ERROR, relative_error
from calibrate.measure.points import Point
from calibrate.measure.timing import Timing, time_call, time_on_host
from kernels import KERNELS, copy

HOST_COPY_REPEATS = 20
MAX_STEP_ERROR = 5e-2  # bfloat16 rounds the residual 64 times on its way through 32 layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``error()`` against float64 first (None: nothing to compare with), then ``time()``."""

    error: Callable[[], float | None]
    time: Callable[[], Timing]
    max_error: float = MAX_RELATIVE_ERROR


def prepare(point: Point, device: str) -> Case:
    """The case of a point, its inputs drawn at random on ``device``."""
    torch.manual_seed(0)
    if point.family == "launch":
        return launch_case(point, device)
    if point.family == "host_link":
        return host_link_case(point, device)
    if point.family == "step":
        return step_case(point, device)
    return kernel_case(point, device)


def kernel_case(point: Point, device: str) -> Case:
    """One of our kernels, or the library's call on the same inputs."""
    kernel, size = KERNELS[point.kernel], dict(point.size)
    inputs = kernel.inputs(size, point.dtype, device)
    if point.provider == "triton":
        return Case(
            error=lambda: relative_error(kernel, inputs),
            time=lambda: time_call(lambda: kernel.launch(**inputs)),
        )
    from calibrate.measure.libraries import library_call

    call = library_call(point.kernel, point.provider)
    # Autograd runs on the stream of the forward pass, which a capture cannot follow.
    in_graph = point.kernel != "flash_attention_backward"
    is_comparable = point.provider != "sdpa_unpaged"
    return Case(
        error=lambda: relative_error(kernel, inputs, call) if is_comparable else None,
        time=lambda: time_call(lambda: call(inputs), in_graph=in_graph),
    )


def launch_case(point: Point, device: str) -> Case:
    """The time from one launch to the next of a kernel that does nothing: plain it is the host's."""
    size = dict(point.size)
    x = torch.zeros(size["num_values"], device=device)
    y = torch.empty_like(x)
    [launch] = copy.launches(x, y)
    once: Callable[[], Any] = launch.run if point.provider == "triton" else (lambda: y.copy_(x))

    def many() -> None:
        for _ in range(size["num_launches"]):
            once()

    is_graph = point.kernel == "launch_graph"

    def time() -> Timing:
        return time_call(many, in_graph=is_graph, cold_l2=False).divided(size["num_launches"])

    return Case(error=lambda: None, time=time)


def host_link_case(point: Point, device: str) -> Case:
    """One direction of the host link; pageable memory is copied by the host first, so its clock counts."""
    num_bytes = dict(point.size)["num_bytes"]
    host = torch.empty(
        num_bytes, dtype=torch.uint8, pin_memory=point.provider == "pinned" and device == "cuda"
    )
    host.random_(0, 256)
    there = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    source, target = (host, there) if point.kernel == "host_to_device" else (there, host)
    source.random_(0, 256)

    def transfer() -> None:
        target.copy_(source, non_blocking=point.provider == "pinned")

    def error() -> float:
        transfer()
        if device == "cuda":
            torch.cuda.synchronize()
        return 0.0 if torch.equal(host, there.cpu()) else 1.0

    def time() -> Timing:
        transfer()
        if point.provider == "pinned":
            return time_call(transfer, in_graph=False, cold_l2=False)
        return time_on_host(transfer, repeats=HOST_COPY_REPEATS)

    return Case(error=error, time=time)


def step_case(point: Point, device: str) -> Case:
    """A decode step of a model of Llama-3.1-8B's shape; its logits are compared with a plain forward pass."""
    from calibrate.engine.step import decode_step

    step = decode_step(point.dtype, device, **dict(point.size))
    is_graph = point.provider == "graph"
    return Case(
        error=step.error, time=lambda: time_call(step.run, in_graph=is_graph), max_error=MAX_STEP_ERROR
    )
