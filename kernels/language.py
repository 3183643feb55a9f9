"""Triton and torch where they are installed; without them a kernel's counts and sizes still import.

The stand-ins carry what a kernel's module touches while it is imported: the ``jit`` decorator. Annotations
are strings (``from __future__ import annotations``), so ``tl.constexpr`` is not looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

IS_INSTALLED = True
torch: Any
triton: Any
tl: Any
try:
    torch, triton, tl = map(import_module, ("torch", "triton", "triton.language"))
except ImportError:
    IS_INSTALLED = False

    def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    torch, triton, tl = SimpleNamespace(), SimpleNamespace(jit=_jit), SimpleNamespace()

__all__ = ["IS_INSTALLED", "tl", "torch", "triton"]
