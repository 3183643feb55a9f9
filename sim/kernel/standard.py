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

from sim.kernel.efficiency import Efficiency
from sim.kernel.elementwise import stream
from sim.kernel.gemm import gemm_launches
from sim.kernel.gpu import Gpu
from sim.kernel.problem import Problem
from sim.kernel.scenario import Gemm, Tile
from sim.kernel.standard_memory import Squares, peak_bytes
from sim.kernel.work import Launch

# A broadcast N × N mask is read through index arithmetic: fitted share of streaming bandwidth that
# PyTorch's elementwise kernel reaches for it (causal rows of FlashAttention-2's and -3's figures).
MASK_MEMORY_FRACTION = 0.42


class StandardAttention:
    """The launches of one attention, forward or backward."""

    def __init__(self, gpu: Gpu, problem: Problem, efficiency: Efficiency) -> None:
        self._gpu, self._problem, self._efficiency = gpu, problem, efficiency
        given = problem.given
        self._scores = problem.heads * given.seqlen * problem.seqlen_kv
        self._square = self._scores * problem.element_bytes

    def forward(self) -> list[Launch]:
        """S, mask, softmax, dropout, O."""
        given = self._problem.given
        launches = self._product("q", "k", "s", (given.seqlen, self._problem.seqlen_kv, given.head_dim))
        scores = "s"
        if given.mask or given.causal:
            mask = given.seqlen * self._problem.seqlen_kv * self._problem.element_bytes
            launches.append(
                self._pass(
                    "mask", {"s": self._square, "mask": mask}, {"s_masked": self._square}, is_mask=True
                )
            )
            scores = "s_masked"
        launches.append(self._pass("softmax", {scores: self._square}, {"p": self._square}))
        probabilities = "p"
        if given.dropout:
            kept = {"p_dropped": self._square, "dropout_mask": self._scores}
            launches.append(self._pass("dropout", {"p": self._square}, kept))
            probabilities = "p_dropped"
        shape = (given.seqlen, given.head_dim, self._problem.seqlen_kv)
        return launches + self._product(probabilities, "v", "o", shape)

    def backward(self) -> list[Launch]:
        """dV, dP, dropout, dS, dQ, dK."""
        given, queries, keys = self._problem.given, self._problem.given.seqlen, self._problem.seqlen_kv
        probabilities = "p_dropped" if given.dropout else "p"
        launches = self._product(probabilities, "do", "dv", (keys, given.head_dim, queries))
        launches += self._product("do", "v", "dp", (queries, keys, given.head_dim))
        gradient = "dp"
        if given.dropout:
            reads = {"dp": self._square, "dropout_mask": self._scores}
            launches.append(self._pass("dropout backward", reads, {"dp_kept": self._square}))
            gradient = "dp_kept"
        reads = {"p": self._square, gradient: self._square}
        launches.append(self._pass("softmax backward", reads, {"ds": self._square}))
        launches += self._product("ds", "k", "dq", (queries, given.head_dim, keys))
        return launches + self._product("ds", "q", "dk", (keys, given.head_dim, queries))

    def extra_bytes(self, direction: str) -> int:
        """Peak of the temporaries: ``sim.kernel.standard_memory`` lists them and their lifetimes."""
        given = self._problem.given
        has_mask = given.mask or given.causal
        sizes = Squares(
            scores=self._scores,
            element_bytes=self._problem.element_bytes,
            mask_elements=given.seqlen * self._problem.seqlen_kv if has_mask else 0,
            has_dropout=given.dropout,
        )
        return peak_bytes(sizes, forward=direction != "backward", backward=direction != "forward")

    def _product(self, a: str, b: str, c: str, shape: tuple[int, int, int]) -> list[Launch]:
        m, n, k = shape
        given = Gemm(m=m, n=n, k=k, batch=self._problem.heads, dtype=self._problem.given.dtype)
        return gemm_launches(self._gpu, self._efficiency, given, Tile(), (a, b, c))

    def _pass(
        self, name: str, reads: dict[str, int], writes: dict[str, int], *, is_mask: bool = False
    ) -> Launch:
        work = float(self._scores)
        return stream(
            self._gpu,
            self._efficiency,
            name,
            reads,
            writes,
            vector_ops=4 * work,
            exponentials=work if name == "softmax" else 0.0,
            memory_fraction=MASK_MEMORY_FRACTION if is_mask else 1.0,
        )
