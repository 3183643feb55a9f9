"""What is measured: every point by kernel, provider, type and size. Needs no torch: the plan prints anywhere.

A provider is who runs it: ``triton`` (our kernels) or a library beside it on the same inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kernels import KERNELS
from sim.model.config import load_model
from sim.model.matrices import layer_matrices

Size = Mapping[str, int]
MAX_STEP_TOKENS = 800_000  # batch × context of a decode step: 105 GB of KV cache for Llama-3.1-8B
MAX_MATH_TOKENS = 4096  # standard attention holds T × T scores

# Every matrix of the first models at every count of tokens; those of the others at few.
DENSE_MODELS = ("llama-3.1-8b", "llama-3.1-70b")
SPARSE_MODELS = (
    "llama-3.2-1b", "llama-2-13b", "qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b", "gemma-2-9b", "gemma-2-27b",
    "phi-4", "opt-13b", "gpt2-medium", "mistral-small-24b",
)  # fmt: skip
DENSE_TOKENS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SPARSE_TOKENS = (1, 16, 128, 1024, 8192)
DECODE_BATCHES = (1, 4, 16, 64, 128, 256)
DECODE_CONTEXTS = (128, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row of the measurements."""

    family: str
    kernel: str
    provider: str
    dtype: str
    size: tuple[tuple[str, int], ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What names the row in the CSV."""
        return self.kernel, self.provider, self.dtype, size_text(dict(self.size))


def size_text(size: Size) -> str:
    """ "M=1 N=4096 K=4096"."""
    return " ".join(f"{axis}={int(length)}" for axis, length in size.items())


def all_points() -> list[Point]:
    """The whole plan, in the order of measuring: what everything else stands on comes first."""
    makers = (
        launch_points, memory_points, host_link_points, norm_points, gemm_points, int4_points,
        attention_points, decode_points, step_points,
    )  # fmt: skip
    points = [point for make in makers for point in make()]
    return [*points, *other_points({point.kernel for point in points})]


def other_points(known: set[str]) -> Iterator[Point]:
    """Kernels that the plan has no sizes for, at those that their own file calls typical."""
    for name, kernel in KERNELS.items():
        if name not in known:
            yield from points_of(kernel.family, name, ("triton",), list(kernel.sizes))


def points_of(
    family: str, kernel: str, providers: tuple[str, ...], sizes: list[Size], dtype: str = "bfloat16"
) -> Iterator[Point]:
    """Every size with every provider, side by side; a size that is listed twice once."""
    distinct = {tuple(size.items()): size for size in sizes}
    for size in distinct.values():
        for provider in providers:
            yield Point(
                family=family, kernel=kernel, provider=provider, dtype=dtype, size=tuple(size.items())
            )


def launch_points() -> Iterator[Point]:
    """An (almost) empty kernel many times over, plain and as nodes of a CUDA graph; and a graph of one node,
    whose time is the graph's own start."""
    many: Size = {"num_values": 1, "num_launches": 1000}
    for kernel in ("launch_plain", "launch_graph"):
        yield from points_of("launch", kernel, ("triton", "torch"), [many], "float32")
    yield from points_of("launch", "launch_graph", ("triton",), [{**many, "num_launches": 1}], "float32")


def memory_points() -> Iterator[Point]:
    """Copies from 64 KB to 2 GB, and one working set after another read from SRAM, L2 and HBM."""
    sizes: list[Size] = [{"num_values": 1 << exponent} for exponent in range(15, 31)]
    yield from points_of("memory", "copy", ("triton", "torch"), sizes)
    yield from points_of("memory", "triad", ("triton", "torch"), sizes[::4])
    slices: list[Size] = []
    between_l1_and_l2 = 5 << 14
    for values in sorted([between_l1_and_l2, *(1 << exponent for exponent in range(12, 23))]):
        repeats = max(2, (1 << 31) // (4 * 132 * values))
        slices.append({"P": 132, "C": values, "num_repeats": repeats})
    yield from points_of("memory", "read", ("triton",), slices, "float32")


def host_link_points() -> Iterator[Point]:
    """Host DRAM to HBM and back, pinned and pageable, 4 KB to 1 GB."""
    sizes: list[Size] = [{"num_bytes": 1 << exponent} for exponent in range(12, 31, 2)]
    for direction in ("host_to_device", "device_to_host"):
        yield from points_of("host_link", direction, ("pinned", "pageable"), sizes, "uint8")


def norm_points() -> Iterator[Point]:
    """RMSNorm with and without a residual, activation and rotary embedding, at 1 to 8192 tokens."""
    sizes: list[Size] = [
        {"M": M, "N": N, "has_residual": residual}
        for N in (1024, 4096, 8192)
        for M in (1, 16, 256, 1024, 8192)
        for residual in (0, 1)
    ]
    yield from points_of("norm", "rms_norm", ("triton", "torch"), sizes)
    tokens = (1, 16, 256, 1024, 8192)
    heads = {"H": 32, "G": 8, "D": 128, "block_size": 16}
    yield from points_of("norm", "silu_mul", ("triton",), [{"M": M, "N": 14_336} for M in tokens])
    yield from points_of("norm", "rope_cache", ("triton",), [{"M": M, **heads} for M in tokens])


def gemm_points() -> Iterator[Point]:
    """Projections of the shipped models in bfloat16, some of them in float16 and in 8-bit floats."""
    dense, sparse = weight_shapes(DENSE_MODELS), weight_shapes(SPARSE_MODELS)
    squares: list[Size] = [{"M": side, "N": side, "K": side} for side in (1024, 2048, 4096, 8192)]
    sizes = squares + with_tokens(dense, DENSE_TOKENS)
    sizes += with_tokens([shape for shape in sparse if shape not in dense], SPARSE_TOKENS)
    providers = ("triton", "torch")
    yield from points_of("gemm", "matmul", providers, sizes)
    llama = weight_shapes(("llama-3.1-8b",))
    yield from points_of("gemm", "matmul", providers, with_tokens(llama, SPARSE_TOKENS), "float16")
    eights = squares + with_tokens(dense, (1, 8, 32, 128, 512, 2048, 8192))
    yield from points_of("gemm", "matmul", providers, eights, "float8_e4m3fn")


def weight_shapes(models: tuple[str, ...]) -> list[tuple[int, int]]:
    """(n, k) of the matrices of these models, each once."""
    shapes = [(one.n, one.k) for name in models for one in layer_matrices(load_model(name))]
    return list(dict.fromkeys(shapes))


def with_tokens(shapes: list[tuple[int, int]], tokens: tuple[int, ...]) -> list[Size]:
    """Every shape at every count of tokens."""
    return [{"M": M, "N": n, "K": k} for n, k in shapes for M in tokens]


def int4_points() -> Iterator[Point]:
    """4-bit weights of Llama-3.1-8B, at few tokens."""
    shapes = [shape for shape in weight_shapes(("llama-3.1-8b",)) if shape[0] < 100_000]
    sizes = with_tokens(shapes, (1, 8, 16, 32, 64, 256))
    yield from points_of("gemm", "int4_matmul", ("triton",), sizes)


def attention_points() -> Iterator[Point]:
    """16,384 tokens in prompts of 512 to 16,384; forward beside every SDPA back end, and backward."""
    libraries = ("triton", "sdpa_flash", "sdpa_cudnn")
    tokens = (512, 1024, 2048, 4096, 8192, 16_384)
    grid = [(32, 8, 128, 1), (32, 32, 128, 1), (32, 8, 128, 0), (32, 32, 64, 1)]
    for H, G, D, is_causal in grid:
        sizes: list[Size] = [attention_size(T, (H, G, D), is_causal) for T in tokens]
        yield from points_of("attention", "flash_attention", libraries, sizes)
        short = [size for size in sizes if size["T"] <= MAX_MATH_TOKENS]
        yield from points_of("attention", "flash_attention", ("sdpa_math",), short)
        yield from points_of("attention", "standard_attention", ("triton",), short)
        yield from points_of("attention", "flash_attention_backward", libraries, sizes)
    yield from few_prompts_points(libraries)


def few_prompts_points(libraries: tuple[str, ...]) -> Iterator[Point]:
    """One and three prompts of 64 tokens and more, as an engine's step has them; and chunks behind what is in
    the cache already, which SDPA's causal masks do not fit."""
    tokens = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    for H, G, D in ((32, 8, 128), (64, 8, 128), (32, 32, 64)):
        sizes: list[Size] = [
            {"B": B, "H": H, "G": G, "T": T, "S": T, "D": D, "is_causal": 1} for B in (1, 3) for T in tokens
        ]
        yield from points_of("attention", "flash_attention", libraries, sizes)
        chunks: list[Size] = [
            {"B": 1, "H": H, "G": G, "T": T, "S": T + cached, "D": D, "is_causal": 1}
            for T in tokens
            for cached in (1024, 8192)
        ]
        yield from points_of("attention", "flash_attention", ("triton",), chunks)


def attention_size(T: int, heads: tuple[int, int, int], is_causal: int) -> Size:
    """16,384 tokens in all, as FlashAttention's own benchmark has them."""
    H, G, D = heads
    return {"B": 16_384 // T, "H": H, "G": G, "T": T, "S": T, "D": D, "is_causal": is_causal}


def decode_points() -> Iterator[Point]:
    """Paged decode over batch × context, grouped and multi-head, beside SDPA on the same keys unpaged."""
    for H, G, D in ((32, 8, 128), (32, 32, 128), (64, 8, 128)):
        most = MAX_STEP_TOKENS * 8 // G
        sizes: list[Size] = [
            {"B": B, "H": H, "G": G, "D": D, "context": context, "block_size": 16}
            for B in DECODE_BATCHES
            for context in DECODE_CONTEXTS
            if B * context <= most
        ]
        yield from points_of("decode", "paged_decode_attention", ("triton", "sdpa_unpaged"), sizes)


def step_points() -> Iterator[Point]:
    """A decode step of Llama-3.1-8B with random weights, eager and as a CUDA graph."""
    sizes: list[Size] = [
        {"B": B, "context": context}
        for B in (1, 8, 32, 64, 128, 256)
        for context in (128, 1024, 2048, 8192)
        if B * context <= MAX_STEP_TOKENS
    ]
    yield from points_of("step", "llama_decode_step", ("eager", "graph"), sizes)


def kernel_counts(point: Point) -> tuple[float, float]:
    """(FLOPs, HBM bytes) of a point whose kernel is ours; of the others the bytes that they move."""
    size = dict(point.size)
    if point.kernel in KERNELS:
        element_bytes = {"float32": 4.0, "float8_e4m3fn": 1.0}.get(point.dtype, 2.0)
        more = {"out_bytes": 2.0} if point.dtype == "float8_e4m3fn" else {}
        counts = KERNELS[point.kernel].counts(**size, element_bytes=element_bytes, **more)
        return counts.flops, counts.hbm_bytes
    return 0.0, float(size.get("num_bytes", 0))
