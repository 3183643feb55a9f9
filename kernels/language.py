"""Triton and torch where they are installed; without them a kernel's counts and sizes still import.

The stand-ins carry what a kernel's module touches while it is imported: the ``jit`` decorator. Annotations
are strings (``from __future__ import annotations``), so ``tl.constexpr`` is not looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

IS_INSTALLED = True
try:
    import torch
    import triton
    import triton.language as tl
except ImportError:
    IS_INSTALLED = False

    def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    triton: Any = SimpleNamespace(jit=_jit)
    tl: Any = SimpleNamespace()
    torch: Any = SimpleNamespace()

__all__ = ["IS_INSTALLED", "tl", "torch", "triton"]
