"""The command ``gpuyard``: verbs only. Each parses, calls, prints, and returns an exit code."""

from __future__ import annotations

from sim.cli.command import VERBS, build_parser, main

__all__ = ["VERBS", "build_parser", "main"]
