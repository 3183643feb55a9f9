"""The ``kernels:`` block: strict loading, what a price makes of it, warnings outside of its range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plain_engine import plain_engine

from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.model.config import load_model
from sim.price.figures import figure_lines, weak_figures
from sim.price.providers.analytic import AnalyticTimes
from sim.price.step import CompiledPrice
from sim.serving.scenario import Scenario, Trace, Workload

H100 = load_hardware("h100-sxm-80gb")


def block(**changes: Any) -> dict[str, Any]:
    """A base profile with one operator's constants written out."""
    fit = H100.kernels["gemm_bfloat16"]
    given: dict[str, Any] = {
        "law": fit.law,
        "constants": dict(fit.constants),
        "sizes": {name: list(pair) for name, pair in fit.sizes.items()},
        "fitted_on": "a test",
        "median_error_fraction": 0.05,
        "p90_error_fraction": 0.15,
    }
    given.update(changes)
    kept = {name: value for name, value in given.items() if value is not None}
    return {"base": "l40s", "kernels": {"gemm_bfloat16": kept}}


def scenario(hardware: object = H100, **engine: Any) -> Scenario:
    return Scenario(
        schema_version=1, question="?", kind="serving",
        hardware=hardware, model=load_model("llama-3.1-8b"),  # type: ignore[arg-type]
        workload=Workload(trace=Trace(path="none.csv")),
        engine=plain_engine(**engine),
    )  # fmt: skip


def test_constants_written_out_are_read_back() -> None:
    read = load_hardware(block())
    assert read.kernels["gemm_bfloat16"].constants == H100.kernels["gemm_bfloat16"].constants
    assert read.kernels["attention_decode"] == load_hardware("l40s").kernels["attention_decode"]
    assert read.sources["kernels.gemm_bfloat16"] == "a test"


CONSTANTS: Mapping[str, float] = H100.kernels["gemm_bfloat16"].constants


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (block(law="attention_decode"), "not the law of this operator"),
        (block(constants={**CONSTANTS, "start_z": 1.0}), "unknown field"),
        (block(constants={k: v for k, v in CONSTANTS.items() if k != "start_s"}), "missing: start_s"),
        (block(constants={**CONSTANTS, "start_s": 2.7}), "not a plausible constant"),
        (block(constants={**CONSTANTS, "start_s": True}), "not a plausible constant"),
        (block(constants={**CONSTANTS, "start_s": float("nan")}), "not a plausible constant"),
        (block(sizes={"m": [10, 1]}), "expected .smallest, largest."),
        (block(sizes={"tokens": [1, 10]}), "unknown field"),
        (block(fitted_on=None), "missing: fitted_on"),
        (block(fitted_on=7), "a source is a text"),
        (block(median_error_fraction="5%"), "expected a fraction"),
        ({"base": "l40s", "kernels": {"gemm_fp8": {}}}, "unknown field"),
        ({"base": "l40s", "kernels": [1]}, "expected kernel constants by operator"),
        ({"base": "l40s", "kernels": {"gemm_int8": {"borrowed_from": "h300"}}}, "no such shipped profile"),
        ({"base": "l40s", "kernels": {"gemm_int8": {"borrowed_from": "t4"}}}, "of its own"),
        ({"base": "l40s", "kernels": {"gemm_int8": {"borrowed_from": "a10", "law": "x"}}}, "stand alone"),
    ],
)
def test_a_broken_block_is_refused_in_words(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load_hardware(given)


def test_the_price_is_the_sum_of_its_laws() -> None:
    """A decode step of one sequence again, from the laws one by one."""
    times = AnalyticTimes(scenario())
    one = np.array([1.0])
    parts = {**times.linear_s(one), **times.head_s(one)}
    attention = times.decode_s(one, np.array([512.0]))
    price = CompiledPrice(scenario())
    total = (sum(float(part[0]) for part in parts.values()) + float(attention[0])) * 1e12
    assert price.step_ps(1, 512, []) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("h100-sxm-80gb", 0.5, 0.85), ("a100-sxm-80gb", 0.5, 0.85)]
)
def test_one_sequence_reaches_a_part_of_hbm(name: str, low: float, high: float) -> None:
    """Weights once per token: 0.50 to 0.80 of the peak with the host's time, a little more without."""
    hardware = load_hardware(name)
    step_s = CompiledPrice(scenario(hardware)).step_ps(1, 512, []) * 1e-12
    assert low < 2 * 7.5e9 / step_s / hardware.hbm_bytes_per_s < high


def test_without_laws_the_curves_price() -> None:
    plain = replace(H100, kernels={})
    with_laws, with_curves = CompiledPrice(scenario()), CompiledPrice(scenario(plain))
    for price in (with_laws, with_curves):
        assert price.step_ps(16, 16 * 1024, []) > 0
    ratio = with_laws.step_ps(16, 16 * 1024, []) / with_curves.step_ps(16, 16 * 1024, [])
    assert 0.7 < ratio < 1.4


def said(hardware: str, *, step_tokens: int = 4096, longest: int = 8192) -> str:
    one = scenario(load_hardware(hardware))
    return "; ".join(figure_lines(weak_figures(one.hardware, AnalyticTimes(one).used(step_tokens, longest))))


def test_a_price_inside_the_range_says_nothing() -> None:
    assert said("a100-sxm-80gb") == ""


def test_a_price_outside_of_the_range_warns() -> None:
    assert "outside of what was measured" in said("a100-sxm-80gb", step_tokens=1_000_000)
    assert "m 1e+06" in said("a100-sxm-80gb", step_tokens=1_000_000)
    assert "context 1e+07" in said("a100-sxm-80gb", longest=10_000_000)


def test_borrowed_constants_are_named() -> None:
    found = said("a100-pcie-80gb")
    assert found == "borrowed from a100-sxm-80gb: gemm_bfloat16, attention_prefill, attention_decode"
