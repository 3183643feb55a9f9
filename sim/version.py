"""The version, by itself: whoever prints it need not import the package's public interface."""

from __future__ import annotations

__version__ = "0.1.0"
