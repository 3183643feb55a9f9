"""What the kernels would launch on a device that is not here, written down in place of running it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from kernels import launch


def recorded(monkeypatch: pytest.MonkeyPatch, capability: launch.Capability, sm_count: int) -> list[Any]:
    """The launches from here on, tiles and splits chosen as on such a device."""
    found: list[Any] = []
    monkeypatch.setattr(launch.Launch, "run", lambda one: found.append(one))
    for name, module in list(sys.modules.items()):
        if name.startswith("kernels."):
            for function, value in (("capability_of", capability), ("sm_count_of", sm_count)):
                if hasattr(module, function):
                    monkeypatch.setattr(module, function, lambda tensor, value=value: value)
    return found


def variant(one: launch.Launch) -> tuple[Any, ...]:
    """What Triton compiles anew for: constants, types, and of whole numbers whether they are 1 or 16 n."""
    arguments = tuple((name, kind(value)) for name, value in sorted(one.arguments.items()))
    tiles = tuple(sorted(one.tiles.constants.items())), one.tiles.num_warps, one.tiles.num_stages
    return one.kernel.__name__, arguments, tiles


def kind(value: object) -> object:
    """A type, or what of a whole number counts."""
    if isinstance(value, torch.Tensor):
        return value.dtype
    if not isinstance(value, int):
        return type(value)
    return 1 if value == 1 else value % 16 == 0
