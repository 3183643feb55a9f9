"""``calibrate fit`` on measured rows: what a known law wrote is found again, what is not meant refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from written_measurements import HBM, PEAK, Law, write_measurements

from calibrate.commands import main
from calibrate.fit.checks import step_scenario
from calibrate.fit.rows import families, read_measurements
from calibrate.fit.timings import graph_start_s, is_held_out, own_timings
from calibrate.measure.planning import one_slot_plan
from calibrate.measure.points import all_points
from sim.hardware import HardwareProfile, curve_fraction, load_hardware
from sim.price.step import CompiledPrice

H200 = "h200-sxm-141gb"
LAW = Law()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole plan measured, and fitted once."""
    made = tmp_path_factory.mktemp("data") / H200
    write_measurements(made, LAW)
    assert main(["fit", "--data", str(made)]) == 0
    return made


@pytest.fixture(scope="module")
def fitted(folder: Path) -> HardwareProfile:
    return load_hardware(str(folder / "fitted.yaml"))


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_constants_of_the_device_are_found_again(fitted: HardwareProfile) -> None:
    """Medians of several rows with 3 % noise."""
    assert fitted.sram_bytes_per_s == pytest.approx(LAW.sram_bytes_per_s, rel=0.04)
    assert fitted.l2_bytes_per_s == pytest.approx(LAW.l2_bytes_per_s, rel=0.06)
    assert fitted.kernel_launch_s == pytest.approx(LAW.launch_s, rel=0.1)
    assert fitted.graph_launch_s == pytest.approx(LAW.node_s, rel=0.1)
    assert fitted.host_link is not None and fitted.host_link.latency_s is not None
    assert fitted.host_link.bytes_per_s == pytest.approx(LAW.link_bytes_per_s, rel=0.04)
    assert fitted.host_link.latency_s == pytest.approx(LAW.link_start_s, rel=0.04)
    curve = fitted.efficiency["elementwise_memory"]
    assert curve_fraction(curve, 1e9) == pytest.approx(LAW.norm_fraction, rel=0.04)
    small_s = 1e6 / HBM / curve_fraction(curve, 1e6)
    assert small_s == pytest.approx(LAW.norm_start_s + 1e6 / HBM / LAW.norm_fraction, rel=0.15)


def test_the_graph_s_start_is_taken_off(folder: Path) -> None:
    found = graph_start_s(read_measurements(folder))
    assert found == pytest.approx(LAW.graph_start_s, rel=0.05)


@pytest.mark.parametrize(
    ("operator", "bounds"),
    [
        ("gemm_bfloat16", (0.08, 0.25)),
        ("gemm_int4_weights", (0.12, 0.35)),
        ("attention_prefill", (0.12, 0.35)),
        ("attention_decode", (0.08, 0.25)),
    ],
)
def test_shapes_held_out_are_predicted(folder: Path, operator: str, bounds: tuple[float, float]) -> None:
    """The truth is a plain roofline, the fitted laws have tiles and waves: their own error remains."""
    found = [row for row in table(folder / "parity" / "parity.csv") if row["operator"] == operator]
    held = [row for row in found if row["is_held_out"] == "1"]
    assert len(held) >= 4 and len(held) < len(found) / 2
    errors = [abs(float(row["fitted_s"]) / float(row["measured_s"]) - 1) for row in held]
    assert np.median(errors) <= bounds[0] and np.quantile(errors, 0.9) <= bounds[1]


def test_a_fit_is_nearer_than_the_shipped_constants(folder: Path) -> None:
    for operator in ("gemm_bfloat16", "attention_decode"):
        held = [
            row
            for row in table(folder / "parity" / "parity.csv")
            if row["operator"] == operator and row["is_held_out"] == "1"
        ]
        errors = {
            name: np.median([abs(float(row[name]) / float(row["measured_s"]) - 1) for row in held])
            for name in ("fitted_s", "shipped_s")
        }
        assert errors["fitted_s"] < errors["shipped_s"]


def test_error_range_and_source_stand_in_the_profile(fitted: HardwareProfile) -> None:
    gemm = fitted.kernels["gemm_bfloat16"]
    assert gemm.law == "tiled_gemm" and gemm.sizes["m"] == (1.0, 8192.0)
    assert 0.0 < gemm.median_error_fraction < 0.1
    for word in ("held out: median", "NVIDIA H200", "torch 2.8.0", "2026-11-21", "by torch"):
        assert word in gemm.fitted_on
    assert "NVIDIA H200" in fitted.sources["host_link"] and "median error" in fitted.sources["host_link"]
    assert fitted.peak_flops_per_s == load_hardware(H200).peak_flops_per_s  # the datasheet's
    assert fitted.kernels["all_reduce_nccl"] == load_hardware(H200).kernels["all_reduce_nccl"]  # not measured


def test_the_fitted_profile_prices_a_step_of_the_law(fitted: HardwareProfile) -> None:
    """A decode step's parts by the law: 32 layers' kernels and the vocabulary; norms and activation left out,
    which at one sequence are start-ups: the price must lie between."""
    batch, context = 64, 2048
    priced_s = CompiledPrice(step_scenario(fitted)).step_ps(batch, batch * context, []) * 1e-12
    shapes = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
    weights = [(n * k + batch * (n + k)) * 2 / (LAW.hbm_fraction * HBM) + LAW.gemm_start_s for n, k in shapes]
    kv_s = LAW.decode_start_s * 1.1 + 4096 * batch * context / (LAW.decode_fraction * HBM)
    least_s = 32 * (sum(weights) + kv_s) + 128256 * 4096 * 2 / (LAW.hbm_fraction * HBM)
    assert 0.93 * least_s < priced_s < 1.2 * least_s


def test_the_parity_report(folder: Path) -> None:
    page = (folder / "parity" / "parity.html").read_text(encoding="utf-8")
    for word in ("gemm_bfloat16", "host_to_device", "Decode steps", "held out"):
        assert word in page
    checks = {row["check"]: row for row in table(folder / "parity" / "checks.csv")}
    reached = float(checks["matmul over the fastest library's rate"]["reached"])
    assert (
        reached == pytest.approx(1 / 1.1, rel=0.1)
        and checks["decode step, median error"]["at_most"] == "0.08"
    )
    steps = table(folder / "parity" / "steps.csv")
    assert len(steps) == 22 and all(float(row["priced_s"]) > 0 for row in steps)
    constants = {row["field"]: row for row in table(folder / "parity" / "constants.csv")}
    assert float(constants["host_link.bytes_per_s"]["difference"]) == pytest.approx(52 / 63 - 1, abs=0.04)


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    """A resumed run has written them in another one; the files are equal byte for byte."""
    texts = []
    for name, is_reversed in (("first", False), ("second", True)):
        made = tmp_path / name / H200
        write_measurements(made, LAW, points=[one for one in all_points() if one.family != "gemm"])
        for file in sorted(made.glob("*.csv")) if is_reversed else ():
            head, *lines = file.read_text(encoding="utf-8").splitlines()
            file.write_text("\n".join([head, *reversed(lines)]) + "\n", encoding="utf-8")
        assert main(["fit", "--data", str(made)]) == 0
        written = [made / "fitted.yaml", made / "parity" / "constants.csv", made / "parity" / "parity.csv"]
        texts.append([file.read_bytes() for file in written])
    assert texts[0] == texts[1]


def test_a_partial_run_keeps_the_rest_of_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / H200
    first, _ = one_slot_plan(H200)
    write_measurements(made, LAW, points=first.points[:60])
    assert main(["fit", "--data", str(made)]) == 0
    said = capsys.readouterr().err
    assert "attention_prefill: " in said and "at least 12 are needed" in said
    text = (made / "fitted.yaml").read_text(encoding="utf-8")
    assert "# as in h200-sxm-141gb: attention_prefill" in text
    found = load_hardware(str(made / "fitted.yaml"))
    assert found.kernels["attention_prefill"] == load_hardware(H200).kernels["attention_prefill"]


def test_every_fifth_shape_is_held_out_whatever_else_is_there(folder: Path) -> None:
    measured = read_measurements(folder)
    every = {one.operator: one for one in own_timings(measured, load_hardware(H200), "fastest")}
    gemm = every["gemm_bfloat16"]
    held = is_held_out(gemm)
    assert 0.12 < held.mean() < 0.28
    half = np.arange(len(held)) % 2 == 0
    assert (is_held_out(gemm.where(half)) == held[half]).all()


def test_whose_kernels_are_fitted(folder: Path) -> None:
    """Ours are a tenth slower than the libraries' in these rows; decoding has no paged library beside it."""
    measured, hardware = read_measurements(folder), load_hardware(H200)
    mean = {
        choice: {
            one.operator: float(np.mean(np.log(one.measured_s)))
            for one in own_timings(measured, hardware, choice)
            if len(one.measured_s)
        }
        for choice in ("triton", "library", "fastest")
    }
    ratio = mean["triton"]["gemm_bfloat16"] - mean["library"]["gemm_bfloat16"]
    assert ratio == pytest.approx(np.log(1.1), abs=0.03)
    assert mean["fastest"]["gemm_bfloat16"] <= mean["library"]["gemm_bfloat16"]
    assert mean["triton"]["attention_decode"] == mean["library"]["attention_decode"]


def test_one_slot_measures_some_of_everything_first() -> None:
    first, rest = one_slot_plan(H200)
    assert {point.key for point in (*first.points, *rest.points)} == {point.key for point in all_points()}
    assert first.expected_s < 300
    assert {point.family for point in first.points} == set(families())
    half = first.points[: len(first.points) // 2]
    assert {point.family for point in half} == set(families())
    tokens = {dict(point.size)["M"] for point in first.points if point.kernel == "matmul"}
    assert tokens == {dict(point.size)["M"] for point in all_points() if point.kernel == "matmul"}


def test_the_made_up_law_is_that_of_a_device() -> None:
    """4096³ at 0.72 of 989 TFLOP/s is 193 us; a pinned gigabyte at 52 GB/s some 20.7 ms."""
    by_key = {point.key: point for point in all_points()}
    square = by_key["matmul", "torch", "bfloat16", "M=4096 N=4096 K=4096"]
    assert LAW.seconds(square) == pytest.approx(3e-6 + 2 * 4096**3 / (0.72 * PEAK))
    copied = by_key["host_to_device", "pinned", "uint8", f"num_bytes={1 << 30}"]
    assert LAW.seconds(copied) == pytest.approx(0.0207, rel=0.01)
