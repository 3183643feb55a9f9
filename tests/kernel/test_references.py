"""The tiled algorithms in NumPy: equal to plain softmax attention, and their accesses to the simulator's."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware import load_hardware
from sim.kernel.algorithms import decode, flash, flash1
from sim.kernel.algorithms.problem import Tile, TileSizes
from sim.kernel.algorithms.standard import StandardAttention
from sim.kernel.gpu import efficiency_of, gpu_of
from sim.kernel.launches import Launch
from sim.kernel.operations import problem_of
from sim.kernel.scenario import Attention
from tests.kernel import reference as ref

A100 = gpu_of(load_hardware("a100-sxm-80gb"))
TOLERANCE = 1e-12

shapes = st.fixed_dictionaries(
    {
        "queries": st.integers(1, 70),
        "keys": st.integers(1, 70),
        "head_dim": st.sampled_from([8, 16, 24]),
        "block_m": st.integers(1, 40),
        "block_n": st.integers(1, 40),
        "causal": st.booleans(),
        "has_mask": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
    }
)


class Case:
    """Random tensors of one head."""

    def __init__(self, shape: dict[str, Any]) -> None:
        rng = np.random.default_rng(shape["seed"])
        queries, keys, dim = shape["queries"], shape["keys"], shape["head_dim"]
        self.shape, self.causal = shape, shape["causal"]
        self.q, self.do = rng.normal(size=(2, queries, dim))
        self.k, self.v = rng.normal(size=(2, keys, dim)) * 2
        self.mask = rng.random((queries, keys)) < 0.7 if shape["has_mask"] else None
        tensors: dict[str, Any] = {"q": self.q, "k": self.k, "v": self.v, "do": self.do}
        for name in ("o", "dq", "dq_sum"):
            tensors[name] = np.zeros_like(self.q)
        for name in ("l", "m", "lse", "delta"):
            tensors[name] = np.zeros(queries)
        tensors |= {"dk": np.zeros_like(self.k), "dv": np.zeros_like(self.v)}
        if self.mask is not None:
            tensors["mask"] = self.mask
        self.memory = ref.DeviceMemory(tensors=tensors)
        self.tiled = ref.Tiled(
            memory=self.memory, block_m=shape["block_m"], block_n=shape["block_n"], causal=self.causal
        )

    def problem(self, algorithm: Any, **more: Any) -> Any:
        shape = self.shape
        return problem_of(
            Attention(
                algorithm=algorithm,
                batch=1,
                num_heads=1,
                head_dim=shape["head_dim"],
                seqlen=shape["queries"],
                seqlen_kv=shape["keys"],
                causal=self.causal,
                dtype="float16",
                **more,
            )
        )

    @property
    def tile(self) -> TileSizes:
        return TileSizes(
            block_m=self.shape["block_m"], block_n=self.shape["block_n"], num_stages=1, num_warps=4
        )

    def expected(self) -> Any:
        return ref.plain_attention(self.q, self.k, self.v, causal=self.causal, mask=self.mask)

    def gradients(self) -> Any:
        return ref.plain_gradients(self.q, self.k, self.v, self.do, causal=self.causal, mask=self.mask)

    def forget(self) -> None:
        self.memory.reads.clear()
        self.memory.writes.clear()


def close(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE))


def same_bytes(memory: ref.DeviceMemory, launches: list[Launch]) -> None:
    """What the reference counted is what the simulator's launches move, tensor by tensor."""
    for counted, side in ((memory.reads, "reads"), (memory.writes, "writes")):
        simulated: dict[str, int] = {}
        for launch in launches:
            for tensor, size in getattr(launch, side).items():
                simulated[tensor] = simulated.get(tensor, 0) + size
        assert {t: n for t, n in counted.items() if n and t != "mask"} == {
            t: n for t, n in simulated.items() if n
        }


@given(shapes)
def test_online_softmax_is_softmax(shape: dict[str, Any]) -> None:
    case = Case(shape)
    scores = case.q @ case.k.T
    whole = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert close(ref.online_softmax(scores, shape["block_n"]), whole / whole.sum(axis=1, keepdims=True))


@given(shapes)
@settings(max_examples=150)
def test_flash_attention_1_is_attention_and_moves_what_the_simulator_counts(shape: dict[str, Any]) -> None:
    case = Case(shape)
    efficiency = flash1.GENERATION.on(A100.profile)
    ref.flash_1_forward(case.tiled)
    assert close(case.memory.tensors["o"], case.expected())
    same_bytes(
        case.memory,
        _flash_1(case, efficiency, is_backward=False),
    )
    case.forget()
    ref.flash_1_backward(case.tiled)
    for name, expected in zip(("dq", "dk", "dv"), case.gradients(), strict=True):
        assert close(case.memory.tensors[name], expected)
    same_bytes(case.memory, _flash_1(case, efficiency, is_backward=True))


def _flash_1(case: Case, efficiency: Any, *, is_backward: bool) -> list[Launch]:
    """One head on one SM: its queries are not split."""
    problem = case.problem("flash_attention_1")
    blocks = flash1.blocks(problem, case.tile, 1, is_backward=is_backward)
    return [_as_launch(blocks)]


def _as_launch(blocks: Any) -> Launch:
    from sim.kernel.launches import totals_of

    reads, writes = totals_of(blocks)
    return Launch(
        name="blocks",
        grid=(),
        sram_bytes_per_block=0,
        warps_per_block=1,
        blocks_per_sm=1,
        start_s=0.0,
        reads=reads,
        writes=writes,
    )


@given(shapes)
@settings(max_examples=150)
def test_flash_attention_2_is_attention_and_moves_what_the_simulator_counts(shape: dict[str, Any]) -> None:
    case = Case(shape)
    problem = case.problem("flash_attention_2")
    efficiency = flash.FLASH_2.on(A100.profile)
    ref.flash_2_forward(case.tiled)
    assert close(case.memory.tensors["o"], case.expected())
    same_bytes(case.memory, flash.forward(A100, problem, case.tile, efficiency))
    case.forget()
    ref.flash_2_backward(case.tiled)
    for name, expected in zip(("dq", "dk", "dv"), case.gradients(), strict=True):
        assert close(case.memory.tensors[name], expected)
    same_bytes(case.memory, flash.backward(A100, problem, case.tile, efficiency))


@given(shapes, st.integers(1, 6))
def test_split_kv_decoding_is_attention_and_moves_what_the_simulator_counts(
    shape: dict[str, Any], num_splits: int
) -> None:
    """The rows of q are the query heads of one group."""
    case = Case({**shape, "causal": False, "has_mask": False})
    num_splits = min(num_splits, shape["keys"])
    rows = shape["queries"]
    memory = case.memory
    memory.tensors |= {
        "o_partial": np.zeros((num_splits * rows, shape["head_dim"])),
        "lse": np.zeros(num_splits * rows),
    }
    ref.split_kv_decode(memory, num_splits)
    assert close(memory.tensors["o"], case.expected())
    problem = problem_of(
        Attention(
            algorithm="split_kv_decode",
            batch=1,
            num_heads=rows,
            num_kv_heads=1,
            head_dim=shape["head_dim"],
            seqlen=1,
            seqlen_kv=shape["keys"],
            dtype="float16",
        )
    )
    if num_splits == 1:
        return  # one split stores its result directly
    launches = decode.launches_of(A100, problem, case.tile, decode.GENERATION.on(A100.profile), num_splits)
    simulated = dict(launches[-1].writes)
    simulated.pop("lse_total")  # kept for a later merge; the reference drops it
    same_bytes(memory, [launches[0], Launch(**{**_fields(launches[-1]), "writes": simulated})])


def _fields(launch: Launch) -> dict[str, Any]:
    return {name: getattr(launch, name) for name in Launch.__slots__}


def test_standard_attention_reads_and_writes_each_square_as_its_passes_say() -> None:
    """Units of N² elements: 18 with mask and dropout (half a pass per byte mask), 11 without."""
    for extras, passes in ((False, 11.0), (True, 18.0)):
        problem = problem_of(
            Attention(
                algorithm="standard",
                batch=2,
                num_heads=3,
                head_dim=64,
                seqlen=512,
                dtype="float16",
                mask=extras,
                dropout=extras,
                direction="forward_backward",
            )
        )
        standard = StandardAttention(A100, problem, efficiency_of("standard", A100.profile))
        launches = [*standard.forward(), *standard.backward()]
        small = {"q", "k", "v", "o", "do", "dq", "dk", "dv", "mask"}
        squares = sum(
            size
            for launch in launches
            for side in (launch.reads, launch.writes)
            for tensor, size in side.items()
            if tensor not in small
        )
        assert squares == passes * problem.heads * 512 * 512 * 2


def test_a_mask_is_counted_under_its_own_name() -> None:
    shape = dict(queries=8, keys=8, head_dim=8, block_m=4, block_n=4, causal=False, has_mask=True, seed=1)
    case = Case(shape)
    ref.flash_2_forward(case.tiled)
    assert case.memory.reads["mask"] > 0


def test_default_tiles_of_flash_attention_1_follow_the_paper() -> None:
    """M = 98,304 elements (192 KB, fp16): 384 columns and 64 rows at head size 64."""
    problem = problem_of(
        Attention(
            algorithm="flash_attention_1", batch=1, num_heads=1, head_dim=64, seqlen=64, dtype="float16"
        )
    )
    sizes = flash1.tile_sizes(A100, problem, Tile())
    assert (sizes.block_n, sizes.block_m) == (384, 64)
