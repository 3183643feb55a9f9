"""Slots, checks and the engine's forward pass, in Triton's interpreter. Run by test_kernels.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from calibrate.engine.llama import Batch, Chunk, Llama, random_llama
from calibrate.engine.step import BLOCK_SIZE, cut_down, decode_step
from calibrate.fit.one_slot import FIT_SECONDS, measure_for
from calibrate.measure import correctness, device, rows, run
from calibrate.measure.command import SLOT_SECONDS
from calibrate.measure.points import Point, all_points, points_of
from calibrate.measure.slots import LAST_POINT_SECONDS, Slot, expected_s
from calibrate.measure.timing import timing_of
from kernels import KERNELS
from sim.hardware import load_hardware
from sim.model.config import load_model

TOKENS = 37
H200 = load_hardware("h200-sxm-141gb")


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows ask for the device that they were measured on; here there is none."""
    monkeypatch.setattr(device, "versions", lambda: {"gpu": "none"})
    monkeypatch.setattr(device.State, "now", lambda self: {})


def slot_of(*sizes: Mapping[str, int], provider: str = "triton") -> Slot:
    points = tuple(points_of("gemm", "matmul", (provider,), list(sizes), "float16"))
    return Slot(number=1, points=points, expected_s=1.0)


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = run.measure
    monkeypatch.setattr(run, "measure", lambda point, _: measured(point, "cpu"))


SIZES = ({"M": 8, "N": 16, "K": 16}, {"M": 9, "N": 16, "K": 16}, {"M": 10, "N": 16, "K": 16})


def test_a_slot_stops_before_its_deadline_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_cpu(monkeypatch)
    slot, said = slot_of(*SIZES), []
    late = run.measure_slot(slot, tmp_path, time.monotonic() + LAST_POINT_SECONDS - 1, said.append)
    assert (late.measured, late.left, said) == (0, 3, [])
    first = Slot(number=1, points=slot.points[:1], expected_s=1.0)
    run.measure_slot(first, tmp_path, time.monotonic() + 100, said.append)
    rest = run.measure_slot(slot, tmp_path, time.monotonic() + 100, said.append)
    assert (rest.measured, rest.refused, rest.left) == (2, 0, 0)
    assert rows.known_keys(tmp_path) == {point.key for point in slot.points}
    assert len((tmp_path / "gemm.csv").read_text(encoding="utf-8").splitlines()) == 4


class SlowDevice:
    """A device in which every point takes longer than expected, and its clock."""

    def __init__(self, slowness: float) -> None:
        self.now_s, self.slowness, self.measured = 1000.0, slowness, []

    def monotonic(self) -> float:
        return self.now_s

    def measure(self, point: Point, _: str) -> dict[str, object]:
        self.now_s += self.slowness * expected_s(point, H200)
        self.measured.append(point)
        return {"p50_s": "1e-3", "p20_s": "1e-3", "p80_s": "1e-3", "num_repeats": 10}


@pytest.mark.parametrize("slowness", [0.6, 3.0])
def test_one_command_keeps_its_ten_minutes_and_goes_on(
    slowness: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the device is: no slot ends late, no point is measured twice, at last all are there."""
    slow = SlowDevice(slowness)
    monkeypatch.setattr(run, "time", slow)
    monkeypatch.setattr(run, "measure", slow.measure)
    left, slots = 1, 0
    while left:
        begun_s = slow.now_s
        left = measure_for(tmp_path, H200.name, begun_s + SLOT_SECONDS - FIT_SECONDS)
        assert slow.now_s - begun_s <= SLOT_SECONDS - FIT_SECONDS
        slots += 1
        families = {point.family for point in slow.measured}
        assert families == {point.family for point in all_points()}, "a slot leaves something of everything"
    assert slots == (2 if slowness < 1 else 6)
    assert len(slow.measured) == len(all_points()) == len({point.key for point in slow.measured})
    assert rows.known_keys(tmp_path) == {point.key for point in all_points()}


def test_a_half_written_line_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run killed in the middle of a row: the next takes the half row away and goes on."""
    on_the_cpu(monkeypatch)
    slot, said = slot_of(*SIZES), []
    run.measure_slot(slot, tmp_path, time.monotonic() + 100, said.append)
    file = tmp_path / "gemm.csv"
    file.write_text(file.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    again = run.measure_slot(slot, tmp_path, time.monotonic() + 100, said.append)
    assert (again.measured, again.left) == (1, 0)
    assert len(cells_of(file)) == 4
    assert "gemm.csv: its last line was cut off, and is measured again" in said


def cells_of(file: Path) -> list[list[str]]:
    """Every line with as many cells as the header."""
    lines = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    assert {len(line) for line in lines} == {len(rows.COLUMNS)}
    return lines


def test_a_refusal_is_a_row_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cpu(monkeypatch)
    eights = points_of("gemm", "matmul", ("triton",), [SIZES[0]], "float8_e4m3fn")
    outcome = run.measure_slot(
        Slot(number=1, points=tuple(eights), expected_s=1.0), tmp_path, time.monotonic() + 100, print
    )
    assert (outcome.measured, outcome.refused) == (0, 1)
    assert "8-bit floats need compute capability 8.9" in (tmp_path / "gemm.csv").read_text(encoding="utf-8")


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of zeros in place of the library's."""
    from calibrate.measure import libraries

    def zeros(given: Mapping[str, Any]) -> Any:
        return torch.zeros(given["a_MK"].shape[0], given["b_KN"].shape[1])

    monkeypatch.setitem(libraries.LIBRARIES, ("matmul", "torch"), zeros)
    [point] = slot_of(SIZES[0], provider="torch").points
    found = run.measure(point, "cpu")
    assert set(found) == {"refused"} and "WrongResultError" in str(found["refused"])
    assert "relative error 1; the limit is 0.01" in str(found["refused"])


def test_a_lost_device_ends_the_run_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, slot = run.prepare, slot_of(*SIZES)

    def lost(point: Point, where: str) -> object:
        if point == slot.points[1]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return prepare(point, "cpu")

    monkeypatch.setattr(run, "prepare", lost)
    with pytest.raises(run.DeviceLostError, match="M=9 N=16 K=16: CUDA error"):
        run.measure_slot(slot, tmp_path, time.monotonic() + 100, print)
    again = run.measure_slot(slot, tmp_path, time.monotonic() + 100, print)
    assert (again.measured, again.left) == (1, 0)
    assert rows.known_keys(tmp_path) == {point.key for point in slot.points}


def test_nan_is_wrong() -> None:
    with pytest.raises(correctness.WrongResultError):
        correctness.check("matmul", float("nan"))
    correctness.check("matmul", None)


@pytest.mark.parametrize("name", sorted(correctness.SAMPLES))
def test_a_sample_is_compared_with_its_own_part(name: str) -> None:
    """Right results pass on the sample alone; the last head, sequence or row wrong does not."""
    torch.manual_seed(0)
    kernel = KERNELS[name]
    inputs = kernel.inputs(kernel.small_sizes[0], "float32", "cpu")
    good = correctness.outputs(kernel.reference(**inputs))

    def spoilt(index: tuple[int, ...]) -> Any:
        values = tuple(value.clone() for value in good)
        values[0][index] = 100.0
        return values

    assert correctness.relative_error(kernel, inputs, lambda _: good) < 1e-6
    seen = (0, 0) if name == "flash_attention_backward" else (-1,) if "matmul" in name else (0, -1)
    assert correctness.relative_error(kernel, inputs, lambda _: spoilt(seen)) > 0.1


def test_percentiles_of_a_timing() -> None:
    timing = timing_of([float(second) for second in range(11)])
    assert (timing.p20_s, timing.p50_s, timing.p80_s, timing.num_repeats) == (2.0, 5.0, 8.0, 11)
    assert timing.divided(10).p50_s == 0.5


def test_a_decode_step_equals_float64() -> None:
    torch.manual_seed(0)
    step = decode_step("float32", "cpu", B=3, context=TOKENS, num_layers=2, width=64)
    assert step.error() < 1e-5


def small_llama() -> Llama:
    torch.manual_seed(0)
    shape = cut_down(load_model("llama-3.1-8b"), 2, 64)
    return random_llama(shape, "float32", "cpu", num_blocks=6, block_size=BLOCK_SIZE, max_positions=TOKENS)


def step_of(tokens: Any, start: int, stop: int, blocks: Any, *, is_decode: bool) -> Batch:
    """Tokens ``start`` to ``stop`` of one sequence, as a chunk or as a decoding row."""
    position = torch.arange(start, stop)
    rows_of_decode = 1 if is_decode else 0
    chunk = Chunk(start=0, stop=stop - start, context=stop, blocks=blocks)
    return Batch(
        token_M=tokens[start:stop],
        position_M=position.int(),
        slot_M=blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE,
        table_BP=blocks[None].int()[:rows_of_decode],
        context_B=torch.full((rows_of_decode,), stop, dtype=torch.int32),
        max_context=stop,
        chunks=() if is_decode else (chunk,),
    )


def test_chunks_and_decoding_give_the_logits_of_one_prefill() -> None:
    """However a prompt is cut, and through whatever blocks, the last token's logits are the same."""
    model = small_llama()
    tokens = torch.randint(0, model.shape.vocab_size, (TOKENS,))
    blocks, others = torch.tensor([4, 0, 2]), torch.tensor([5, 1, 3])
    whole = model.forward(step_of(tokens, 0, TOKENS, blocks, is_decode=False))[-1]
    model.forward(step_of(tokens, 0, 20, others, is_decode=False))
    model.forward(step_of(tokens, 20, TOKENS - 1, others, is_decode=False))
    last = model.forward(step_of(tokens, TOKENS - 1, TOKENS, others, is_decode=True))[-1]
    assert float((last - whole).norm() / whole.norm()) < 1e-5


def test_a_step_may_mix_decoding_and_a_chunk() -> None:
    model = small_llama()
    tokens = torch.randint(0, model.shape.vocab_size, (TOKENS,))
    blocks, others = torch.tensor([4, 0, 2]), torch.tensor([5, 1, 3])
    chunk_alone = model.forward(step_of(tokens, 0, 20, blocks, is_decode=False))[-1]
    model.forward(step_of(tokens, 0, 20, others, is_decode=False))
    decode_alone = model.forward(step_of(tokens, 20, 21, others, is_decode=True))[-1]
    decode = step_of(tokens, 20, 21, others, is_decode=True)
    chunk = step_of(tokens, 0, 20, blocks, is_decode=False)
    both = Batch(
        token_M=torch.cat([decode.token_M, chunk.token_M]),
        position_M=torch.cat([decode.position_M, chunk.position_M]),
        slot_M=torch.cat([decode.slot_M, chunk.slot_M]),
        table_BP=decode.table_BP,
        context_B=decode.context_B,
        max_context=21,
        chunks=(Chunk(start=1, stop=21, context=20, blocks=blocks),),
        sampled=torch.tensor([0, 20]),
    )
    logits = model.forward(both)
    assert torch.allclose(logits[0], decode_alone, rtol=1e-4, atol=1e-4)
    assert torch.allclose(logits[1], chunk_alone, rtol=1e-4, atol=1e-4)


def test_the_plan_names_libraries_that_exist() -> None:
    from calibrate.measure.libraries import BACK_ENDS, LIBRARIES, SDPA
    from calibrate.measure.points import all_points

    others = {"launch", "host_link", "step"}
    pairs = {(point.kernel, point.provider) for point in all_points() if point.family not in others}
    for kernel, provider in pairs:
        is_back_end = provider in BACK_ENDS and kernel in SDPA
        assert provider == "triton" or (kernel, provider) in LIBRARIES or is_back_end
