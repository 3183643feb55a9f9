"""What of a device's figures is not its own is said, of every device and by every kind of run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.hardware import hardware_names, load_hardware
from sim.hardware.profile import EfficiencyCurve, HardwareProfile
from sim.kinds.load import load_tree
from sim.kinds.run import run_scenario
from sim.price.figures import AskedLaw, Figure, Used, figures_caution, weak_figures

A100, L4 = load_hardware("a100-sxm-80gb"), load_hardware("l4")
ATTENTION = {"num_heads": 8, "batch": 1, "seqlen": 256, "head_dim": 64, "dtype": "float16"}
KINDS: dict[str, dict[str, Any]] = {
    "serving": {
        "model": "gpt2",
        "engine": {"dtype": "float16"},
        "workload": {
            "arrivals": {"process": "all_at_once"},
            "prompt_tokens": {"distribution": "fixed", "value": 20},
            "output_tokens": {"distribution": "fixed", "value": 2},
            "num_requests": 2,
        },
    },
    "training": {
        "model": "gpt2-large",
        "training": {"num_workers": 1, "num_steps": 2, "max_seq_len": 256, "precision": "amp_fp16"},
    },
    "kernel": {"kernel": {"attention": {"algorithm": "standard", **ATTENTION}}},
}


def said(kind: str, hardware: Any, **changes: Any) -> str:
    """The warning of one small run about its device's figures."""
    head = {"schema_version": 1, "question": "?", "kind": kind, "hardware": hardware}
    file = load_tree({**head, **KINDS[kind], **changes}, "test.yaml")
    answer = run_scenario(file, record_block_map=False)
    kinds = [
        caution for _, caution in answer.comparison.warnings if caution.kind == "efficiency_not_measured"
    ]
    return "; ".join(caution.observation for caution in kinds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", hardware_names())
def test_every_borrowed_curve_that_a_run_used_is_named(kind: str, name: str) -> None:
    """Whatever the profile's own words call borrowed; what a law of its own prices asks no curve."""
    text, profile = said(kind, name), load_hardware(name)
    lent = {curve for curve, one in profile.efficiency.items() if "borrowed" in one.source}
    laws = {law for law, fit in profile.kernels.items() if fit.borrowed_from}
    if not lent and not laws:
        assert "borrowed" not in text
    if "elementwise_memory" in lent:
        assert "elementwise_memory" in text
    if "gemm_bfloat16" in laws and kind != "kernel":
        assert "gemm_bfloat16" in text
    if not profile.kernels and "gemm_compute" in lent:
        assert "gemm_compute" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_what_was_measured_is_quiet(kind: str) -> None:
    assert said(kind, "a100-sxm-80gb") == ""


@pytest.mark.parametrize("name", ["mi300x", "mi250x", "v100-sxm2-32gb", "t4"])
def test_no_device_takes_another_architecture_s_kernels_in_silence(name: str) -> None:
    for kind in ("training", "kernel"):
        assert "assumed" in said(kind, name)
    standard = said("kernel", name)
    assert f"not known for {load_hardware(name).architecture}; Ampere's stands in" in standard


@pytest.mark.parametrize(
    ("name", "algorithm", "whose"),
    [
        ("b200-sxm-180gb", "flash_attention_2", "Hopper's stands in"),
        ("a10", "flash_attention_2", "that of an A100 stands in"),
        ("rtx-pro-6000", "paged_decode", "that of a B200 stands in"),
        ("mi300x", "flash_attention_2", "Ampere's stands in"),
        ("b200-sxm-180gb", "standard", "Hopper's stands in"),
        ("l40s", "standard", "Ampere's stands in"),
    ],
)
def test_a_kernel_s_figures_of_another_chip_are_said_to_be(name: str, algorithm: str, whose: str) -> None:
    query = {"seqlen": 1, "seqlen_kv": 256} if algorithm == "paged_decode" else {}
    work = {"attention": {"algorithm": algorithm, **ATTENTION, **query}}
    assert whose in said("kernel", name, kernel=work)


def test_training_says_where_its_constants_were_fitted() -> None:
    assert "as on A100s" in said("training", "h200-sxm-141gb")
    job = {**KINDS["training"]["training"], "attention": "flash_2"}
    assert "Hopper's stands in" in said("training", "b200-sxm-180gb", training=job)
    assert "NCCL" in said("training", "mi300x", training={**job, "num_workers": 2})


def test_another_peak_than_the_measured_one_is_said() -> None:
    faster = {"base": "a100-sxm-80gb", "hbm_bytes_per_s": "4 TB/s"}
    for kind in KINDS:
        assert "efficiencies at another hbm_bytes_per_s" in said(kind, faster)
    assert said("kernel", {"base": "a100-sxm-80gb", "usd_per_hour": 1}) == ""


def with_curve(source: str) -> HardwareProfile:
    curve = EfficiencyCurve(size_unit="flops", points=((1.0, 0.5),), source=source)
    return replace(A100, efficiency={"gemm_compute": curve})


@pytest.mark.parametrize(
    ("profile", "used", "figures"),
    [
        (with_curve("fitted"), Used(curves=("gemm_compute",)), ()),
        (
            with_curve("borrowed from l4 at equal ideal time: sizes times 2"),
            Used(curves=("gemm_compute",)),
            (Figure(standing="borrowed", what="gemm_compute", whence="l4"),),
        ),
        (
            with_curve("assumed: a guess"),
            Used(curves=("gemm_compute",)),
            (Figure(standing="assumed", what="gemm_compute"),),
        ),
        (
            with_curve("fitted"),
            Used(curves=("link",)),
            (Figure(standing="assumed", what="no link curve, so kernels reach all of the peak"),),
        ),
        (
            L4,
            Used(laws=(AskedLaw(law="gemm_bfloat16", sizes={"m": 64.0}),)),
            (Figure(standing="borrowed", what="gemm_bfloat16", whence="l40s"),),
        ),
        (
            A100,
            Used(laws=(AskedLaw(law="gemm_bfloat16", sizes={"m": 1e6}),)),
            (Figure(standing="extrapolated", what="gemm_bfloat16 with m 1e+06 (fitted to 1 to 8192)"),),
        ),
        (A100, Used(assumed=("assumed: a guess",)), (Figure(standing="assumed", what="a guess"),)),
    ],
)
def test_the_standing_of_a_figure(profile: HardwareProfile, used: Used, figures: tuple[Figure, ...]) -> None:
    assert weak_figures(profile, used) == figures


GEMM_TOO = ("gemm_compute", "elementwise_memory")


@pytest.mark.parametrize(
    ("name", "used", "assumes"),
    [
        (
            "mi300x",
            ("gemm_compute", "elementwise_memory"),
            "mi300x reaches the efficiencies of h100-sxm-80gb (gemm_compute: 0.607 of them), though measured "
            "runs on mi300x took about 2.3 × as long as simulated (validation board)",
        ),
        ("mi300x", ("elementwise_memory",), None),
        (
            "mi250x",
            ("gemm_compute", "elementwise_memory"),
            "mi250x reaches the efficiencies of h100-sxm-80gb (gemm_compute: 0.607 of them)",
        ),
        ("mi250x", ("elementwise_memory",), "mi250x reaches the efficiencies of mi300x"),
        ("h100-sxm-80gb", GEMM_TOO, ""),
        ("h100-sxm-80gb", ("elementwise_memory",), ""),
        ("l4", ("elementwise_memory",), "l4 reaches the efficiencies of l40s"),
        ("a100-sxm-80gb", ("gemm_compute",), None),
    ],
)
def test_what_decides_of_it_is_what_the_answer_says(
    name: str, used: tuple[str, ...], assumes: str | None
) -> None:
    """An elementwise curve decides where nothing else was asked for; what the same chip lends does not."""
    found = figures_caution(load_hardware(name), Used(curves=used))
    assert (found and found.assumes) == assumes


def test_what_a_profile_says_of_the_board_is_what_the_board_found() -> None:
    """The median of a device whose figures are borrowed, as docs/validation.md has it."""
    text = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
    [row] = [line for line in text.splitlines() if line.startswith("| MI300X ")]
    median, bias = (float(row.split("|")[at].strip(" %")) / 100 for at in (4, 6))
    assert bias < 0, "too fast: the median of the signed errors is below 0, too"
    assert load_hardware("mi300x").measured_over_simulated == pytest.approx(1 / (1 - median), abs=0.005)
    caution = figures_caution(load_hardware("mi300x"), Used(curves=("gemm_compute",)))
    assert "took about 2.3 × as long as simulated" in str(caution)
    slow = replace(load_hardware("mi300x"), measured_over_simulated=0.5)
    assert "took about 50 % as long" in str(figures_caution(slow, Used(curves=("gemm_compute",))))


def test_the_assumed_is_in_its_own_words() -> None:
    found = figures_caution(A100, Used(assumed=("assumed: a guess",)))
    assert found is not None and found.assumes == "a guess"
