"""The version in a module of its own: printing it does not import the package's public interface."""

from __future__ import annotations

__version__ = "0.1.0"
