"""The real engine's host time, from the steps of the one run that may tune something.

What a step takes beside its forward pass is linear in sequences and prompt tokens, a median fit without
negative terms. The forward pass of few sequences is the launches of its kernels, one by one from Python: the
median over the smallest quarter of the decode steps. Not told apart: launches and kernels of those steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibrate.engine.runs import Recorded
from sim.errors import ScenarioError
from sim.hardware.engine_profile import EngineOverheads
from sim.hardware.laws.device import Floats

FEWEST_STEPS = 30
ROUNDS = 60
SMALLEST_S = 1e-6  # below it an error weighs no more


def fit_host_times(run: Recorded, num_layers: int) -> EngineOverheads:
    """Per step, per sequence, per prompt token, and per layer's launches."""
    if len(run.steps) < FEWEST_STEPS:
        raise ScenarioError(
            "too few steps to fit the host's time to", file=str(run.folder / "steps.csv"),
            given=len(run.steps), allowed=f"at least {FEWEST_STEPS}",
        )  # fmt: skip
    column = {
        name: np.array([float(step[name]) for step in run.steps])
        for name in ("step_s", "model_s", "num_decode", "num_prefill", "prefill_tokens")
    }
    sequences = column["num_decode"] + column["num_prefill"]
    terms = [np.ones(len(sequences)), sequences, column["prefill_tokens"]]
    step_s, per_sequence_s, per_token_s = not_negative_fit(terms, column["step_s"] - column["model_s"])
    decode = column["num_prefill"] == 0
    launch_s = 0.0
    if decode.any():
        few = decode & (sequences <= np.quantile(sequences[decode], 0.25))
        launch_s = float(np.median(column["model_s"][few]))
    source = f"fitted to {len(sequences)} steps of {run.about['run']}, {run.about['measured_on']}"
    return EngineOverheads(
        step_s=step_s, per_sequence_s=per_sequence_s, per_prompt_token_s=per_token_s,
        launch_per_layer_s=launch_s / num_layers, source=source,
    )  # fmt: skip


def not_negative_fit(terms: Sequence[Floats], target: Floats) -> list[float]:
    """Least absolute deviations with factors of at least 0: reweighted least squares, the most negative term
    left out until none is."""
    kept = list(range(len(terms)))
    while True:
        columns = np.stack([terms[index] for index in kept], axis=1)
        scale = np.maximum(columns.max(axis=0), 1e-300)
        factors = np.zeros(len(kept))
        weight = np.ones(len(target))
        for _ in range(ROUNDS):
            root = np.sqrt(weight)[:, None]
            factors = np.linalg.lstsq(columns / scale * root, target * root[:, 0], rcond=None)[0] / scale
            weight = 1.0 / np.maximum(np.abs(target - columns @ factors), SMALLEST_S)
        if factors.min() >= 0.0 or len(kept) == 1:
            found = dict(zip(kept, np.maximum(factors, 0.0).tolist(), strict=True))
            return [found.get(index, 0.0) for index in range(len(terms))]
        del kept[int(np.argmin(factors * scale))]
