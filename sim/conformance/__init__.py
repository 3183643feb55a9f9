"""Replays recorded decisions of vLLM's own scheduler and reports the first difference, if any.

A folder holds ``index.json`` (all settings of each case) and, per case, its workload and the log of every
``schedule()`` call. Every logged field is compared, the physical block ids (``bcrc``) included. The
replayed code is the simulator's own (``sim.serving.vllm``); timed cases use a clock in floats, as the
recording did, while the simulator's clock stays integer.

Not in the recordings, so not shown equal: EAGLE and MTP lookahead, sliding-window and hybrid KV groups,
data parallel, KV connectors.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sim.conformance.replay import CaseResult, Difference, replay_case, replay_folder
from sim.conformance.table import render

__all__ = ["CaseResult", "Difference", "main_conformance", "render", "replay_case", "replay_folder"]


def main_conformance(path: Path | str) -> int:
    """Replays a folder and prints the table; 0 where every decision is equal, else 1.

    A folder that cannot be read raises ``ScenarioError`` (exit code 2 on the command line).
    """
    results = replay_folder(path)
    sys.stdout.write(render(results) + "\n")
    return 0 if all(result.is_equal for result in results) else 1
