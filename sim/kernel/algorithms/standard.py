"""Standard attention: every step a kernel of its own, the N × N scores in HBM between them.

Passes over N² tensors, per head (r reads, w writes), as PyTorch's eager expression runs them:

    forward    S = Q Kᵀ (w) · S + mask (r w) · softmax (r w) · dropout (r w, its byte mask w) · P V (r)
    backward   dV = Pᵀ dO (r) · dP = dO Vᵀ (w) · dropout (r w, its byte mask r) · softmax (r P, r dP, w dS)
               · dQ = dS K (r) · dK = dSᵀ Q (r)

The mask is added, so its gradient is the score's own: no pass. For GPT-2 medium (N 1024, 64, 16 heads,
batch 64, fp16) that is 25.2 GB without and 40.3 GB with mask and dropout; FlashAttention's Fig. 2
prints 40.3. The causal mask is such a mask: nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.gemm import gemm_launches
from sim.kernel.algorithms.problem import Algorithm, Gemm, Problem, Tile
from sim.kernel.gpu import Direction, Efficiency, Gpu, Library
from sim.kernel.launches import Launch
from sim.price.kernel_set import PYTORCH_SCORES, Pass, Squares, peak_bytes

# What each pass over the scores makes.
_MADE = {
    "mask": "s_masked",
    "softmax": "p",
    "dropout": "p_dropped",
    "dropout backward": "dp_kept",
    "softmax backward": "ds",
}


class StandardAttention:
    """The launches of one attention, forward or backward."""

    def __init__(self, gpu: Gpu, problem: Problem, efficiency: Efficiency) -> None:
        self._gpu, self._problem, self._efficiency = gpu, problem, efficiency
        self._scores = problem.heads * problem.seqlen * problem.seqlen_kv
        self._square = self._scores * problem.element_bytes

    def forward(self) -> list[Launch]:
        """S, mask, softmax, dropout, O."""
        problem = self._problem
        launches = self._product("q", "k", "s", (problem.seqlen, problem.seqlen_kv, problem.head_dim))
        scores = "s"
        for one in PYTORCH_SCORES.forward:
            if one.name == "mask" and not (problem.mask or problem.causal):
                continue
            if one.moved_bytes(has_dropout=problem.dropout):
                launches.append(self._pass(one, scores, _MADE[one.name]))
                scores = _MADE[one.name]
        shape = (problem.seqlen, problem.head_dim, problem.seqlen_kv)
        return launches + self._product(scores, "v", "o", shape)

    def backward(self) -> list[Launch]:
        """dV, dP, dropout, dS, dQ, dK."""
        problem, queries, keys = self._problem, self._problem.seqlen, self._problem.seqlen_kv
        probabilities = "p_dropped" if problem.dropout else "p"
        launches = self._product(probabilities, "do", "dv", (keys, problem.head_dim, queries))
        launches += self._product("do", "v", "dp", (queries, keys, problem.head_dim))
        gradient = "dp"
        for one in PYTORCH_SCORES.backward:
            if one.moved_bytes(has_dropout=problem.dropout):
                launches.append(self._pass(one, gradient, _MADE[one.name]))
                gradient = _MADE[one.name]
        launches += self._product("ds", "k", "dq", (queries, problem.head_dim, keys))
        return launches + self._product("ds", "q", "dk", (keys, problem.head_dim, queries))

    def _product(self, a: str, b: str, c: str, shape: tuple[int, int, int]) -> list[Launch]:
        m, n, k = shape
        given = Gemm(m=m, n=n, k=k, batch=self._problem.heads, dtype=self._problem.dtype)
        return gemm_launches(self._gpu, self._efficiency, given, Tile(), (a, b, c))

    def _pass(self, one: Pass, source: str, made: str) -> Launch:
        """The pass's bytes by tensor: what is not the scores' own is dropout's mask, P, or the mask added."""
        work = float(self._scores)
        reads, writes = {source: self._square}, {made: self._square}
        if one.name == "mask":
            square = self._problem.seqlen * self._problem.seqlen_kv
            reads["mask"] = square * self._problem.element_bytes
        elif one.name == "dropout":
            writes["dropout_mask"] = self._scores
        elif one.name == "dropout backward":
            reads["dropout_mask"] = self._scores
        elif one.name == "softmax backward":
            reads = {"p": self._square, source: self._square}
        return stream(
            self._gpu,
            self._efficiency,
            one.name,
            reads,
            writes,
            vector_ops=4 * work,
            exponentials=work if one.name == "softmax" else 0.0,
            memory_fraction=one.memory_fraction,
        )


def extra_bytes(problem: Problem, launches: Sequence[Launch], direction: str) -> int:
    """Peak of the temporaries, in the order in which they come and go."""
    del launches
    has_mask = problem.mask or problem.causal
    sizes = Squares(
        scores=problem.heads * problem.seqlen * problem.seqlen_kv,
        element_bytes=problem.element_bytes,
        mask_elements=problem.seqlen * problem.seqlen_kv if has_mask else 0,
        has_dropout=problem.dropout,
    )
    return peak_bytes(sizes, forward=direction != "backward", backward=direction != "forward")


def launches(gpu: Gpu, problem: Problem, tile: Tile, direction: Direction) -> list[Launch]:
    """Every step a kernel of its own; products choose their tiles themselves."""
    del tile
    standard = StandardAttention(gpu, problem, GENERATION.on(gpu.profile))
    return standard.backward() if direction == "backward" else standard.forward()


GENERATION = Library(name="standard")
ALGORITHM = Algorithm(
    # every step a kernel, scores in HBM, as PyTorch's eager expression
    launches=launches,
    extra_bytes=extra_bytes,
    generation=GENERATION,
    stores_scores=True,
    in_training_step=True,
)
