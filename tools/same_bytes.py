"""Are results the same bytes whatever BLAS, SIMD level and libm compute with?

``python -m tools.same_bytes`` runs a few scenarios of the gallery, shortened, in a fresh process per setting:
as this machine is, with another core for OpenBLAS, with NumPy's optional CPU features off, and with a glibc
that must do without AVX2 and FMA. Every ``summary.json`` must have the bytes of the first one. What a setting
changes in NumPy's and Python's own functions is printed, so that a setting without any effect here is seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np

# Scenarios of the gallery, with what makes them short: learning, step times, lognormal and normal
# lengths, bursts, prices by the kernels' laws.
SCENARIOS: Mapping[str, tuple[str, ...]] = {
    "training/staleness_and_loss": ("seeds=[1]", "training.num_steps=60"),
    "training/local_sgd": ("seeds=[1]", "training.num_steps=64", "learning.max_gradients=2000"),
    "training/scaling_1024": ("seeds=[1]", "training.num_steps=20", "scaling.num_steps=2"),
    "serving/static_vs_continuous": ("seeds=[1, 2]", "workload.num_requests=300"),
    "serving/mixture_chat_rag_agents": ("seeds=[1]", "workload.num_requests=400"),
    "kernel/attention_on_gpt2": (),
}
# What decides how libraries compute. Each setting is set alone, everything else is taken out.
VARIABLES = ("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "GLIBC_TUNABLES")
MAX_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one process found: the summaries, and how its libraries compute (a digest of each)."""

    summaries: Mapping[str, str]
    libraries: Mapping[str, str]


def settings() -> dict[str, dict[str, str]]:
    """By name, the variables of each setting; the first one sets none."""
    return {
        "as it is": {},
        "OpenBLAS for Nehalem": {"OPENBLAS_CORETYPE": "Nehalem"},
        "NumPy without optional CPU features": {"NPY_DISABLE_CPU_FEATURES": " ".join(cpu_features())},
        "glibc without AVX2 and FMA": {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA"},
    }


def cpu_features() -> list[str]:
    """The optional features that NumPy has found here and would use."""
    shown = np.show_config(mode="dicts")
    assert isinstance(shown, dict)
    found = shown.get("SIMD Extensions", {}).get("found", [])
    return [str(name) for name in found]


def libraries() -> dict[str, str]:
    """A digest of what BLAS, NumPy's loops and libm make of the same numbers."""
    numbers = np.random.default_rng(1).random(20_000) + 0.01
    square = numbers[:10_000].reshape(100, 100)
    few = numbers.tolist()
    computed = {
        "BLAS": square @ square,
        "NumPy": np.concatenate([np.exp(numbers), np.log(numbers), np.tanh(numbers), numbers**0.37]),
        "libm": np.array([function(one) for function in (math.exp, math.log1p, math.sin) for one in few]),
    }
    return {name: hashlib.sha256(values.tobytes()).hexdigest()[:12] for name, values in computed.items()}


def run_here(scenarios: Mapping[str, tuple[str, ...]]) -> Run:
    """The scenarios in this process."""
    from sim.export.files import summary_json
    from sim.kinds.load import load_scenario
    from sim.kinds.run import run_scenario

    summaries = {}
    for name, overrides in scenarios.items():
        answer = run_scenario(load_scenario(name, overrides=overrides))
        summaries[name] = summary_json(answer.summaries, comparison=answer.comparison)
    return Run(summaries=summaries, libraries=libraries())


def run_under(setting: Mapping[str, str], scenarios: Mapping[str, tuple[str, ...]]) -> Run:
    """The scenarios in a process of their own, under ``setting``."""
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-m", "tools.same_bytes", "--child", json.dumps(scenarios)]
    done = subprocess.run(command, env={**others, **setting}, stdout=subprocess.PIPE, text=True, check=True)
    return Run(**json.loads(done.stdout))


def differences(first: str, second: str) -> list[str]:
    """The first lines that two texts do not share."""
    pairs = enumerate(zip_longest(first.splitlines(), second.splitlines()), start=1)
    unlike = (f"line {at}: {a} | {b}" for at, (a, b) in pairs if a != b)
    return list(islice(unlike, MAX_LINES))


def compare(runs: Mapping[str, Run]) -> list[str]:
    """A line for every summary that has other bytes than under the first setting, and where."""
    (_, first), *others = runs.items()
    found = []
    for setting, run in others:
        for name, text in first.summaries.items():
            if run.summaries[name] != text:
                found.append(f"{name} differs: {setting}")
                found.extend(f"    {line}" for line in differences(text, run.summaries[name]))
    return found


def main() -> int:
    """Run the scenarios under every setting; 1 where a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        run = run_here(json.loads(arguments.child))
        json.dump({"summaries": run.summaries, "libraries": run.libraries}, sys.stdout)
        return 0
    runs: dict[str, Run] = {}
    for name, setting in settings().items():
        runs[name] = run = run_under(setting, SCENARIOS)
        first = next(iter(runs.values())).libraries
        changed = [library for library, digest in run.libraries.items() if digest != first[library]]
        print(f"{name}: " + (f"{', '.join(changed)} computes otherwise" if changed else "no library differs"))
    found = compare(runs)
    print("\n".join(found) or f"the same bytes: {len(SCENARIOS)} scenarios under {len(runs)} settings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
