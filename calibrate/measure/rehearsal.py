"""Rehearses the plan on the CPU, one small point of every kind: ``python -m calibrate.measure.rehearsal``.

Its own process, as ``TRITON_INTERPRET`` is read when the kernels are imported. In float16: the interpreter
gets bfloat16 products wrong. Times mean nothing; errors do.
"""

from __future__ import annotations

import sys

from calibrate.measure.points import Point, points_of
from kernels import KERNELS


def small_points(only: str = "") -> list[Point]:
    """The first small size of every kernel with its libraries, and one each of the other families."""
    points: list[Point] = []
    for name, kernel in KERNELS.items():
        providers = ("triton", *kernel.cpu_libraries)
        points += points_of(kernel.family, name, providers, [kernel.small_sizes[0]], "float16")
    for kernel_name in ("launch_plain", "launch_graph"):
        size = {"num_values": 1, "num_launches": 3}
        points += points_of("launch", kernel_name, ("triton", "torch"), [size], "float32")
    for direction in ("host_to_device", "device_to_host"):
        points += points_of("host_link", direction, ("pinned", "pageable"), [{"num_bytes": 4096}], "uint8")
    step = {"B": 3, "context": 20, "num_layers": 2, "width": 64}
    points += points_of("step", "llama_decode_step", ("eager",), [step], "float32")
    return [point for point in points if only in ("", point.family)]


def main(only: str = "") -> int:
    """1 when a point was refused."""
    from calibrate.measure.run import rehearse

    refused = rehearse(small_points(only), lambda line: print(line, flush=True))
    if refused:
        print(f"{refused} points of the rehearsal were refused", file=sys.stderr)
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
