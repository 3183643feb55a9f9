"""``python -m calibrate measure``: the plan's promises, its rows, what it says without a GPU. No torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from calibrate.commands import main
from calibrate.measure import rows
from calibrate.measure.device import profile_of
from calibrate.measure.planning import chosen, plan, plan_table
from calibrate.measure.points import MAX_STEP_TOKENS, Point, all_points, size_text
from calibrate.measure.slots import LAST_POINT_SECONDS, cut, expected_s, ideal_s
from kernels import KERNELS
from sim.errors import ScenarioError
from sim.hardware import load_hardware

CHECKOUT = Path(__file__).parent.parent.parent
H200 = "h200-sxm-141gb"
POINTS = all_points()
IS_TRITON_HERE = all(importlib.util.find_spec(name) for name in ("torch", "triton"))


def sizes(kernel: str, dtype: str = "bfloat16") -> list[dict[str, int]]:
    found = {point.size: None for point in POINTS if (point.kernel, point.dtype) == (kernel, dtype)}
    return [dict(size) for size in found]


def test_at_least_300_gemm_shapes_at_1_to_8192_tokens() -> None:
    shapes = sizes("matmul")
    assert len(shapes) >= 300
    assert {size["M"] for size in shapes} >= {1, 8, 64, 512, 8192}
    assert {(size["N"], size["K"]) for size in shapes} >= {(6144, 4096), (28672, 4096), (8192, 28672)}
    assert len(sizes("matmul", "float16")) >= 20 and len(sizes("matmul", "float8_e4m3fn")) >= 60


def test_every_kernel_is_measured_and_libraries_run_beside_it() -> None:
    providers = {}
    for point in POINTS:
        providers.setdefault(point.kernel, set()).add(point.provider)
    assert set(KERNELS) <= set(providers)
    assert providers["matmul"] == {"triton", "torch"}
    assert providers["flash_attention"] == {"triton", "sdpa_flash", "sdpa_cudnn", "sdpa_math"}
    assert providers["host_to_device"] == providers["device_to_host"] == {"pinned", "pageable"}
    assert providers["llama_decode_step"] == {"eager", "graph"}
    assert {"launch_plain", "launch_graph"} <= set(providers)


def test_what_issue_checks_ask_for_is_in_the_plan() -> None:
    """The squares, causal attention at 4k to 16k of head 128, decoding of 64 sequences of 4k."""
    assert {"M": 4096, "N": 4096, "K": 4096} in sizes("matmul")
    causal = [size for size in sizes("flash_attention") if size["D"] == 128 and size["is_causal"]]
    assert {size["T"] for size in causal} >= {4096, 8192, 16_384}
    assert any(size["B"] == 64 and size["context"] == 4096 for size in sizes("paged_decode_attention"))
    steps = sizes("llama_decode_step")
    assert {size["B"] for size in steps} >= {1, 256}
    assert {size["context"] for size in steps} >= {128, 8192}


def test_a_step_s_cache_fits_the_device() -> None:
    """131,072 bytes a token of Llama-3.1-8B beside 16 GB of weights."""
    most = max(size["B"] * size["context"] for size in sizes("llama_decode_step"))
    assert most <= MAX_STEP_TOKENS
    assert most * 131_072 + 17e9 < load_hardware(H200).hbm_bytes


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({point.key for point in POINTS}) == len(POINTS)


def test_slots_hold_the_plan_in_order_and_leave_time_to_spare() -> None:
    slots = plan(H200)
    assert [point for slot in slots for point in slot.points] == POINTS
    assert [slot.number for slot in slots] == list(range(1, len(slots) + 1))
    hardware = load_hardware(H200)
    for slot in slots:
        assert slot.expected_s == pytest.approx(sum(expected_s(point, hardware) for point in slot.points))
        assert slot.expected_s <= 400  # of the 600 that a slot may take
        assert max(expected_s(point, hardware) for point in slot.points) < LAST_POINT_SECONDS


def test_expected_time_follows_the_roofline() -> None:
    """4096³ in bfloat16 at 989 TFLOP/s: 139 us; a copy of 2^28 values: 1.07 GB at 4.8 TB/s."""
    hardware = load_hardware(H200)
    square = next(p for p in POINTS if p.key == ("matmul", "triton", "bfloat16", "M=4096 N=4096 K=4096"))
    assert ideal_s(square, hardware) == pytest.approx(2 * 4096**3 / 989e12)
    copied = next(p for p in POINTS if p.key == ("copy", "triton", "bfloat16", "num_values=268435456"))
    assert ideal_s(copied, hardware) == pytest.approx(4 * 2**28 / 4.8e12)


def test_one_family_alone_and_what_does_not_exist() -> None:
    assert {point.family for slot in plan(H200, "decode") for point in slot.points} == {"decode"}
    with pytest.raises(ScenarioError, match="no such family"):
        plan(H200, "gem")
    with pytest.raises(ScenarioError, match="no such slot"):
        chosen(plan(H200), 99)
    assert plan_table(plan(H200, "step")).endswith("0 GEMM shapes in bfloat16")


def point_of_size(**size: int) -> Point:
    return Point(family="gemm", kernel="matmul", provider="torch", dtype="bfloat16", size=tuple(size.items()))


def test_rows_come_back_as_keys(tmp_path: Path) -> None:
    first, second = point_of_size(M=1, N=2, K=3), point_of_size(M=4, N=2, K=3)
    rows.append(tmp_path, "gemm", rows.row_of(first, {"p50_s": "1e-6", "gpu": "a, b"}))
    rows.append(tmp_path, "gemm", rows.row_of(second, {"refused": "no such\ttile"}))
    assert rows.known_keys(tmp_path) == {first.key, second.key}
    lines = (tmp_path / "gemm.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and lines[0] == ",".join(rows.COLUMNS)
    assert ",12," in lines[1]  # 2 M N K
    assert rows.known_keys(tmp_path / "nothing") == set()


def test_a_foreign_csv_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("kernel,seconds\nmatmul,1\n", encoding="utf-8")
    assert rows.known_keys(tmp_path) == set()


@pytest.mark.parametrize(
    ("torch_name", "profile"),
    [
        ("NVIDIA H200", H200),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA B200", "b200-sxm-180gb"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 4080", None),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("Tesla V100-SXM2-32GB", "v100-sxm2-32gb"),
        ("Tesla T4", "t4"),
        ("Tesla K80", None),
    ],
)
def test_a_device_is_known_by_the_words_of_its_profile_s_name(torch_name: str, profile: str | None) -> None:
    assert profile_of(torch_name) == profile


def test_sizes_read_as_text() -> None:
    assert size_text({"M": 1, "is_causal": True}) == "M=1 is_causal=1"


def test_an_empty_plan_has_no_slots() -> None:
    assert cut([], load_hardware(H200)) == []


Said = tuple[int, str, str]
"""(exit code, stdout, stderr)."""


@pytest.fixture
def calibrate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """``python -m calibrate`` in this process, which has torch already; it hears what further ones print."""
    monkeypatch.chdir(CHECKOUT)

    def run(*arguments: str) -> Said:
        code = main(arguments)
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("arguments", [(), ("measure",)], ids=["one command", "measure"])
def test_without_a_gpu_one_line_and_3(arguments: tuple[str, ...], calibrate: Callable[..., Said]) -> None:
    if IS_TRITON_HERE:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    code, out, err = calibrate(*arguments)
    assert (code, out) == (3, "")
    assert err.startswith("no GPU to measure: ") and err.count("\n") == 1


@pytest.mark.slow
def test_the_engine_s_dry_run_serves_a_few_requests(tmp_path: Path, calibrate: Callable[..., Said]) -> None:
    """A tiny Llama in the interpreter, in a process of its own; its rows are marked as no measurement."""
    scenario = "calibrate/engine/scenarios/chat.yaml"
    code, out, err = calibrate("engine", "serve", "--dry-run", "--data", str(tmp_path), scenario)
    assert (code, err) == (0, "")
    assert "chat-overload             300 requests" in out
    if IS_TRITON_HERE:
        assert "chat-light: 3 steps, 3 of 3 requests" in out
        about = (tmp_path / "chat-light" / "run.yaml").read_text(encoding="utf-8")
        assert "is_dry: true" in about and "times mean nothing" in about
    else:
        assert "no rehearsal: torch and triton are not installed" in out


@pytest.mark.slow
def test_the_dry_run_prints_the_plan_and_rehearses_it(calibrate: Callable[..., Said]) -> None:
    """With torch and Triton one small point of every kind runs in the interpreter, else it says why not."""
    code, out, err = calibrate("measure", "--dry-run")
    assert (code, err) == (0, "")
    assert f"{len(POINTS)} points in 3 slots" in out
    if IS_TRITON_HERE:
        assert "llama_decode_step eager float32" in out
        for kernel in KERNELS:
            assert f"  {kernel} triton float16" in out
    else:
        assert "no rehearsal: torch and triton are not installed" in out
