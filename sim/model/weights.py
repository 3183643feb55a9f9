"""Bytes of a model's weights on one GPU: as the checkpoint holds them, or as an engine quantises them."""

from __future__ import annotations

from typing import Literal

from sim.errors import ScenarioError
from sim.model.counts import DTYPE_BYTES, embedding_parameters, served_dtype, vector_parameters
from sim.model.matrices import Matrix, layer_matrices
from sim.model.shape import SCHEMES, DtypeChoice, ModelShape, Quantization, Stage, WeightScheme

EXPERTS = ("moe_gate_up", "moe_down")


# Multiples to which a kernel of mxfp4 experts rounds (intermediate size on a GPU, hidden size), as vLLM 0.33
# has them in its code; Triton's swizzled layout pads hidden later, to 256 by the sizes that 0.11 logged
# (64.38 GiB of gpt-oss-120b).
Mxfp4Kernel = Literal["none", "triton", "marlin", "flashinfer", "cutlass"]
MXFP4_ROUNDING: dict[Mxfp4Kernel, tuple[int, int]] = {
    "none": (1, 1),
    "triton": (64, 256),
    "marlin": (128, 256),
    "flashinfer": (128, 256),
    "cutlass": (128, 128),
}


def served_quantization(m: ModelShape, quantization: Quantization = "none") -> Quantization:
    """How the weights are held: as asked, else as the checkpoint has them (gpt-oss: mxfp4 experts)."""
    return m.checkpoint_quantization if quantization == "none" else quantization


def schemes_of(m: ModelShape) -> set[Quantization]:
    """The kinds of formats that the checkpoint's quantised matrices are held in."""
    return {scheme.kind for kind in m.kinds for _, scheme in kind.schemes}


def weight_bytes(
    m: ModelShape,
    *,
    quantization: Quantization = "none",
    dtype: DtypeChoice = "auto",
    tensor_parallel_size: int = 1,
    stage: Stage | None = None,
    mxfp4_kernel: Mxfp4Kernel = "none",
) -> int:
    """Bytes of the weights on one GPU: of the whole model, or of one pipeline stage (``m`` is its shape).

    Without ``quantization`` each matrix is held as the checkpoint has it, scales and zero points included;
    with it all linear layers are (mxfp4: the routed experts). Embeddings, lm_head, the router, biases and
    norms stay in ``dtype``. ``mxfp4_kernel`` pads experts as that kernel does; before repacking by others.
    Vectors are counted whole on every GPU (their split saves less than 0.1 %), the final norm in every stage.
    """
    embeds, samples = stage is None or stage.is_first, stage is None or stage.is_last
    tp, width = tensor_parallel_size, DTYPE_BYTES[served_dtype(m, dtype)]
    total = vector_parameters(m) * width
    if embeds:
        total += (embedding_parameters(m) - m.vocab_size * m.hidden_size) * width
        total += -(-m.vocab_size // tp) * m.hidden_size * width
    for matrix in layer_matrices(m, tp):
        if matrix.name == "lm_head" and (not samples or (m.tie_word_embeddings and embeds)):
            continue
        one = matrix_bytes(matrix, quantization, width, mxfp4_kernel)
        total += round(one * matrix.layers * matrix.num_experts)
    return total


def matrix_bytes(
    matrix: Matrix, quantization: Quantization, dtype_bytes: int, mxfp4_kernel: Mxfp4Kernel = "none"
) -> float:
    """Bytes of one matrix, of one expert, on one GPU."""
    n, k = matrix.n, matrix.k
    scheme = matrix.scheme
    if quantization != "none":
        scheme = None if _stays_whole(matrix, quantization) else SCHEMES[quantization]
    if scheme is None:
        return n * k * dtype_bytes
    if scheme.kind == "mxfp4" and matrix.name in EXPERTS:
        n, k = _rounded(matrix, mxfp4_kernel)
    if matrix.name in EXPERTS:
        inner, hidden = _expert_sizes(matrix)
        scheme = scheme.refined(inner, hidden)
    return scheme.num_bytes(n, k)


def _expert_sizes(matrix: Matrix) -> tuple[int, int]:
    """Intermediate size of an expert on this GPU, and its hidden size."""
    if matrix.name == "moe_down":
        return matrix.k, matrix.n
    return matrix.parts[0] if matrix.parts else matrix.n, matrix.k


def _rounded(matrix: Matrix, kernel: Mxfp4Kernel) -> tuple[int, int]:
    inner_step, hidden_step = MXFP4_ROUNDING[kernel]
    inner, hidden = _expert_sizes(matrix)
    wide, tall = -(-inner // inner_step) * inner_step, -(-hidden // hidden_step) * hidden_step
    if matrix.name == "moe_down":
        return tall, wide
    return wide * max(1, len(matrix.parts)), tall


def bits_per_weight(
    matrix: Matrix, quantization: Quantization, dtype_bytes: int, *, of_checkpoint: bool = False
) -> float:
    """Bits that reading one weight takes; what is not quantised takes ``dtype_bytes``.

    ``of_checkpoint``: each matrix as the checkpoint has it, else all linear layers in ``quantization``.
    """
    scheme = matrix.scheme
    if not of_checkpoint:
        whole = quantization == "none" or _stays_whole(matrix, quantization)
        scheme = None if whole else SCHEMES[quantization]
    return 8.0 * dtype_bytes if scheme is None else scheme.traffic_bits


def _stays_whole(matrix: Matrix, quantization: Quantization) -> bool:
    """lm_head and router are never quantised; mxfp4 holds only experts."""
    return matrix.name in ("lm_head", "router") or (quantization == "mxfp4" and matrix.num_experts == 1)


def check_block_split(m: ModelShape, tensor_parallel_size: int) -> None:
    """Refuse a split that cuts blocks or groups of weights with one scale, as vLLM does.

    FP8 in blocks: what a GPU has of a dense row-parallel input, and of each fused output, must be whole
    blocks; the last output of an unsplit fused layer need not. Groups along the input (AWQ, GPTQ,
    compressed-tensors, nvfp4, the MX formats): what a GPU has of the input must be whole groups, on one GPU
    too. Experts: blocks are refined, groups of AWQ and GPTQ halved down to 32, 4-bit floats padded.
    """
    tp = tensor_parallel_size
    for matrix in layer_matrices(m, tp):
        scheme = matrix.scheme
        if scheme is None or scheme.group is None or scheme.groups == "free":
            continue
        if matrix.num_experts > 1:
            _check_experts(m, matrix, scheme, tp)
        elif scheme.has_blocks:
            _check_blocks(m, matrix, scheme, tp)
        elif matrix.k % scheme.group:
            raise _cut(m, matrix, matrix.k, scheme.group, tp)


def _check_blocks(m: ModelShape, matrix: Matrix, scheme: WeightScheme, tp: int) -> None:
    if scheme.group and matrix.kind == "row" and tp > 1 and matrix.k % scheme.group:
        raise _cut(m, matrix, matrix.k, scheme.group, tp)
    parts = matrix.parts or (matrix.n,)
    checked = parts if tp > 1 else parts[:-1]
    for part in checked if matrix.kind == "column" else ():
        if part % scheme.rows:
            raise _cut(m, matrix, part, scheme.rows, tp)


def _check_experts(m: ModelShape, matrix: Matrix, scheme: WeightScheme, tp: int) -> None:
    if scheme.has_blocks or scheme.kind in ("nvfp4", "mxfp4"):
        return
    sizes = _expert_sizes(matrix)
    group = scheme.refined(*sizes).group
    for size in sizes:
        if group and size % group:
            raise _cut(m, matrix, size, group, tp)


_FORMATS: dict[Quantization, str] = {"fp8": "FP8", "int8": "8-bit", "int4": "4-bit"}


def _cut(m: ModelShape, matrix: Matrix, size: int, block: int, tp: int) -> ScenarioError:
    scheme = matrix.scheme
    kind = "blocks" if scheme is not None and scheme.has_blocks else "groups"
    name = _FORMATS.get(scheme.kind, scheme.kind) if scheme is not None else ""
    where = f"on each of {tp} GPUs" if tp > 1 else "on one GPU"
    fitting = [n for n in (1, 2, 4, 8, 16, 32) if n < tp and not size * tp % (n * block)]
    smaller = f"tensor_parallel_size {' or '.join(map(str, fitting))}, or " if fitting else ""
    other = f"a checkpoint of {m.name} with scales by channel, or with other {kind}"
    return ScenarioError(
        f"{size:,} entries of {matrix.name} {where} are not whole {kind} of {block}: "
        f"the {name} scales of {m.name} cannot be split so",
        path="engine.tensor_parallel_size",
        given=tp,
        allowed=f"a size that leaves multiples of {block}",
        hint=f"{smaller}{other}",
    )
