"""A memory account as it is told: its fields, the formula of a token, notes, warnings, the whole as text."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import fields
from math import ceil
from typing import TYPE_CHECKING, Any

from sim.errors import InvariantError
from sim.hardware.vllm_releases import dropped_notes, release_of
from sim.model.counts import kv_dtype_bytes
from sim.model.encoders import RUN_NOT_COUNTED
from sim.model.kv_groups import KvGroup, KvPool
from sim.model.kv_layers import KvRow
from sim.model.shape import ModelShape, Stage
from sim.price.memory_lines import GIB, MemoryLine, outside_share
from sim.scenario.caution import Caution
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile
    from sim.price.priced import PricedEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How many requests of ``tokens`` are served at once.

    ``max_concurrency``: vLLM's own number, each with all that its prompt takes while it is computed.
    ``kv_requests``: what the blocks hold while they decode; ``max_num_seqs`` may allow fewer.
    """

    tokens: int
    max_concurrency: float
    kv_requests: int
    max_num_seqs: int

    @property
    def requests(self) -> int:
        """At most so many."""
        return min(self.kv_requests, self.max_num_seqs)

    @property
    def limited_by(self) -> str:
        """What allows no more."""
        return "max_num_seqs" if self.max_num_seqs < self.kv_requests else "KV cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """One GPU's memory, line by line, and what the KV cache holds.

    ``pool`` has the blocks by group; ``num_gpu_blocks`` are its own. ``kv_budget_tokens`` is the number that
    the engine logs ("GPU KV cache size"): with windows or states it depends on ``max_model_len`` and is no
    capacity. ``whole_blocks``: blocks that hold all layers of ``block_size`` tokens, for schedulers that
    know one group only. ``max_concurrency`` is what vLLM logs: every request with all that its prompt takes
    while it is computed. ``doubts``: what was guessed when the model was read.
    """

    account: str  # whose, as "vllm 0.33.0"
    lines: tuple[MemoryLine, ...]
    kv_budget_bytes: int
    kv_budget_formula: str
    kv_bytes_per_token: int  # before any window is full; recurrent states apart
    kv_formula: str
    state_bytes_per_sequence: int
    block_size: int
    num_gpu_blocks: int
    whole_blocks: int
    kv_budget_tokens: int
    kv_tokens_formula: str
    max_model_len: int
    longest_position: int
    longest_that_fits: int
    kv_bytes_per_full_request: int
    max_concurrency: float
    max_num_seqs: int
    max_num_batched_tokens: int
    overridden: bool  # num_gpu_blocks_override in place of the budget
    pool: KvPool
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """What was guessed of the model, then what may go wrong at the start."""
        return (*self.doubts, *self.warnings)

    @property
    def weight_bytes(self) -> int:
        """Of one GPU."""
        return sum(-line.num_bytes for line in self.lines if line.label == "weights")

    @property
    def lets_go(self) -> bool:
        """Whether a request holds less while it decodes than its prompt takes: windows, chunks, states."""
        return self.pool.blocks_held(self.max_model_len) < self.pool.blocks_of(self.max_model_len)

    @property
    def groups(self) -> tuple[KvGroup, ...]:
        """Which layers share a block table."""
        return self.pool.groups

    def bytes_of(self, num_tokens: int) -> int:
        """KV and states that a sequence of ``num_tokens`` takes at most, while its prompt is computed."""
        return self.pool.blocks_of(num_tokens) * self.pool.block_bytes

    def bytes_held(self, num_tokens: int) -> int:
        """The same once it decodes: windows and chunks hold no more than they are, a state is one page."""
        return self.pool.blocks_held(num_tokens) * self.pool.block_bytes

    def fits(self) -> tuple[Fit, ...]:
        """How many requests at once, by their length: halved from the longest down to 1,024."""
        found, length = [], self.longest_that_fits
        while length:
            found.append(self.fit_of(length))
            half = 1 << (length - 1).bit_length() - 1
            length = half if half >= 1024 else 0
        return tuple(found)

    def fit_of(self, num_tokens: int) -> Fit:
        """How many requests of ``num_tokens`` at once."""
        return Fit(
            tokens=num_tokens,
            max_concurrency=self.pool.concurrency(num_tokens),
            kv_requests=self.pool.decoding(num_tokens),
            max_num_seqs=self.max_num_seqs,
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: the fields by their names, the groups one by one."""
        apart = ("lines", "notes", "warnings", "doubts", "pool")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        lines = [
            {"label": x.label, "bytes": x.num_bytes, "formula": x.formula, "basis": x.basis}
            for x in self.lines
        ]
        groups = [
            {
                "kind": group.kind,
                "num_layers": group.num_layers,
                "block_size": group.block_size,
                "window_tokens": group.window_tokens,
                "block_bytes": group.block_bytes,
                "caches_prefixes": group.caches_prefixes,
            }
            for group in self.groups
        ]
        return {
            "lines": lines,
            **plain,
            "decoding_requests": self.fit_of(self.max_model_len).requests if self.lets_go else None,
            "groups": groups,
            "block_bytes": self.pool.block_bytes,
            "notes": list(self.notes),
            "warnings": list(self.all_warnings),
            "start_warnings": list(self.warnings),
        }


def kv_formula(model: ModelShape, groups: tuple[KvGroup, ...], engine: PricedEngine) -> str:
    """What a token takes, kind of layer by kind of layer, with the heads of one GPU."""
    tp, width = engine.tensor_parallel_size, kv_dtype_bytes(model, engine.kv_cache_dtype, engine.dtype)
    counts: dict[tuple[str, Hashable], int] = {}
    for group in groups:
        for layer in group.layers:
            if layer.kind != "state":
                named = layer.kind, layer.row
                counts[named] = counts.get(named, 0) + 1
    several = len({kind for kind, _ in counts}) > 1
    parts = []
    for (kind, row), count in counts.items():
        named_kind = counted(count, f"{kind} layer" if several else "layer")
        parts.append(f"{named_kind} x {_row_formula(model, row, tp, width)}")
    return " + ".join(parts)


def _row_formula(model: ModelShape, row: Hashable, tp: int, width: int) -> str:
    if isinstance(row, tuple):
        name, num_bytes = row
        if name == "latent" and model.mla is not None and num_bytes == model.mla.latent_size * width:
            mla = model.mla
            return f"(kv_lora_rank {mla.kv_lora_rank} + rope {mla.qk_rope_head_dim}) x {width} B"
        return f"{num_bytes} B ({name})"
    if not isinstance(row, KvRow):
        raise InvariantError(f"a layer's row is neither K and V nor named: {row}")
    held = counted(row.num_heads, "KV head") + (f" of {row.all_heads} on each GPU" if tp > 1 else "")
    if row.head_dim == row.v_head_dim:
        return f"{held} x head_dim {row.head_dim} x 2 (K and V) x {width} B"
    return f"{held} x (K {row.head_dim} + V {row.v_head_dim}) x {width} B"


def notes_of(
    stage: Stage, engine: PricedEngine, lines: tuple[MemoryLine, ...], pool: KvPool
) -> tuple[str, ...]:
    """What was assumed or is not known, for the reader."""
    model = stage.shape
    notes = list[str]()
    if stage.num_stages > 1:
        notes.append(
            f"stage {stage.index + 1} of {stage.num_stages} has the fewest KV blocks: every stage has as many"
        )
    tp = engine.tensor_parallel_size
    if model.mla is not None and tp > 1:
        notes.append(f"latent attention: every one of the {tp} GPUs keeps the whole KV")
    elif model.attention is not None and tp > model.num_key_value_heads:
        heads = model.num_key_value_heads
        notes.append(f"{counted(heads, 'KV head')} {'are' if heads > 1 else 'is'} repeated on {tp} GPUs")
    if model.encoder_parameters:
        notes.append(RUN_NOT_COUNTED)
    notes += [f"{line.label}: {line.unsure}" for line in lines if line.unsure]
    if (
        engine.num_gpu_blocks_override is not None
        and engine.max_model_len
        and not pool.fits(engine.max_model_len)
    ):
        notes.append(
            f"num_gpu_blocks_override {pool.num_blocks:,} holds no request of max_model_len "
            f"{engine.max_model_len:,}: vLLM refuses to start so"
        )
    if engine.runtime == "vllm":
        notes += release_of(engine.vllm_version).unmeasured
    else:
        notes.append(
            f"{engine.runtime}'s account is read and assumed, line by line; windows are kept whole in it, "
            "and states and KV share what is left"
        )
    return tuple(dict.fromkeys(notes))


def warnings_of(
    stage: Stage,
    hardware: HardwareProfile,
    engine: PricedEngine,
    lines: tuple[MemoryLine, ...],
    pool: KvPool,
) -> tuple[str, ...]:
    """What may go wrong at a start that the account lets pass."""
    found: list[str] = []
    if engine.runtime != "vllm":
        return ()
    outside = outside_share(
        stage.shape, engine, release_of(engine.vllm_version), hardware, samples=stage.is_last
    )
    left = hardware.hbm_bytes - ceil(hardware.hbm_bytes * engine.gpu_memory_utilization)
    if outside.num_bytes > left:
        found.append(
            f"gpu_memory_utilization {engine.gpu_memory_utilization:g} leaves {left / GIB:.2f} GiB for what "
            f"lies outside of it, which is about {outside.num_bytes / GIB:.2f} GiB ({outside.formula}): "
            "the start may run out of memory"
        )
    given = engine.kv_cache_memory_bytes
    if given is not None:
        taken = -sum(line.num_bytes for line in lines if line.label not in ("device total", "left alone"))
        if taken + given > hardware.hbm_bytes:
            found.append(
                f"kv_cache_memory_bytes {given / GIB:.2f} GiB and {taken / GIB:.2f} GiB beside it are more "
                f"than the device's {hardware.hbm_bytes / GIB:.2f} GiB: the start runs out of memory"
            )
    return tuple(found)


def doubts_of(model: ModelShape, engine: PricedEngine) -> tuple[str, ...]:
    """What was guessed when the model was read, or when it is served, and what hangs on it."""
    served = dropped_notes(model.architecture, engine.vllm_version) if engine.runtime == "vllm" else ()
    if not model.notes and not served:
        return ()
    told = f"{model.name}: {'; '.join((*model.notes, *served))}"
    guessed = ": weights, KV and what fits may be wrong entirely, hold them against the model's card"
    return (told + guessed if model.is_guessed or served else told,)


def start_caution(warnings: Sequence[str]) -> Caution | None:
    """The warning that a run deserves whose start may fail (``MemoryPlan.warnings``)."""
    if not warnings:
        return None
    return Caution(
        kind="start_may_fail",
        observation="; ".join(warnings),
        meaning="the run is simulated as if the engine had started",
        remedy="a smaller gpu_memory_utilization or max_num_seqs",
    )


def render_memory(plan: MemoryPlan, tokens: int | None = None) -> str:
    """The account as text: label, GiB, GB and formula; ``tokens``: also what a sequence of so many takes.

    Warnings stand in front of it, not in it.

    GiB = 2**30 bytes is what engines log, GB = 10**9 what datasheets print.
    """
    rows = [_row(line.label, line.num_bytes, line.formula, line.basis) for line in plan.lines]
    rows.append(_row("= KV cache", plan.kv_budget_bytes, plan.kv_budget_formula))
    rows += ["", *_what_fits(plan)]
    if tokens is not None:
        rows += ["", *tokens_lines(plan, tokens)]
    rows += [f"note: {note}" for note in plan.notes]
    return "\n".join(rows)


def _row(label: str, num_bytes: int, formula: str, basis: str = "") -> str:
    said = f"{formula} [{basis}]" if basis else formula
    return f"  {label:<22}{num_bytes / GIB:>9.2f} GiB{num_bytes / 1e9:>9.2f} GB   {said}"


def _what_fits(plan: MemoryPlan) -> list[str]:
    pool, per_token = plan.pool, plan.kv_bytes_per_token
    formula = plan.kv_formula or "no layer attends: states only"
    rows = [f"  one token             {per_token:,} bytes ({per_token / 1024:g} KiB) = {formula}"]
    if plan.state_bytes_per_sequence:
        states = plan.state_bytes_per_sequence
        rows.append(f"  states of a sequence  {states:,} bytes ({states / 2**20:.4g} MiB), before padding")
    rows.append(
        f"  blocks                {plan.num_gpu_blocks:,} = KV cache / {pool.block_bytes:,} B of a block "
        f"({_said_groups(plan.groups)})"
    )
    rows.append(f"  tokens                {plan.kv_budget_tokens:,} = {plan.kv_tokens_formula}")
    return [*rows, *_full_requests(plan)]


def _full_requests(plan: MemoryPlan) -> Iterator[str]:
    """vLLM's maximum concurrency; where windows let go, what decodes at once; what a request needs."""
    length, pool = plan.max_model_len, plan.pool
    most = plan.fit_of(length)
    each = f"{counted(pool.blocks_of(length), 'block')}, {plan.kv_bytes_per_full_request / GIB:.3g} GiB each"
    whose = "vLLM's own maximum concurrency: " if plan.account.startswith("vllm") else ""
    words = f"  full-length requests  {plan.max_concurrency:.2f} of {length:,} tokens ({whose}{each}"
    yield words + (" while its prompt is computed)" if plan.lets_go else ")")
    if plan.lets_go:
        held = pool.blocks_held(length)
        each = f"{counted(held, 'block')}, {held * pool.block_bytes / GIB:.3g} GiB each"
        yield (
            f"  while they decode     up to {most.requests:,} of {length:,} tokens ({each}: windows have let "
            "go, a state is one page)"
        )
    if most.limited_by == "max_num_seqs":
        yield f"  max_num_seqs          allows no more than {counted(plan.max_num_seqs, 'request')} at once"
    if most.kv_requests < 1:
        yield (
            f"  not one               request of max_model_len {length:,} fits; the longest that does is "
            f"{plan.longest_that_fits:,} tokens, longer ones fail while they run"
        )


def counted(number: int, what: str) -> str:
    """ "1 block", "2,000 blocks"."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def fit_lines(plan: MemoryPlan) -> Iterator[str]:
    """The longest context, and how many requests of which length."""
    yield f"  longest context       {plan.longest_that_fits:,} tokens (one request alone)"
    for one in plan.fits():
        words = f"  at most               {counted(one.requests, 'request')} of {one.tokens:,} tokens"
        if plan.lets_go:
            words += f" while they decode (vLLM's own maximum concurrency: {one.max_concurrency:.2f})"
        yield words + (" (max_num_seqs)" if one.limited_by == "max_num_seqs" else "")


def _said_groups(groups: tuple[KvGroup, ...]) -> str:
    """Groups that are alike as one: "5 groups of 8 sliding layers (1,024) and 1 of 8 full"."""
    counts: dict[tuple[str, int, int], int] = {}
    for group in groups:
        kind = group.kind if group.window_tokens is None else f"{group.kind} {group.window_tokens:,}"
        named = kind, group.num_layers, group.block_size
        counts[named] = counts.get(named, 0) + 1
    parts = [
        (f"{count} x " if count > 1 else "")
        + f"{counted(layers, f'{kind} layer')} of {counted(block, 'token')}"
        for (kind, layers, block), count in counts.items()
    ]
    return " | ".join(parts)


def tokens_lines(plan: MemoryPlan, tokens: int) -> list[str]:
    """What a request of ``tokens`` takes, and whether it can be served."""
    most, held = plan.bytes_of(tokens), plan.bytes_held(tokens)
    rows = [f"  {counted(tokens, 'token')}: {_sizes(most)}, {counted(plan.pool.blocks_of(tokens), 'block')}"]
    if held < most:
        rows[0] += " while the prompt is computed"
        rows.append(f"  {counted(tokens, 'token')}: {_sizes(held)} while it decodes")
    return [*rows, *(f"  {tokens:,} is {one}" for one in above(plan, tokens))]


def above(plan: MemoryPlan, tokens: int) -> list[str]:
    """What a request of ``tokens`` exceeds, in words."""
    limits = []
    if tokens > plan.longest_position:
        limits.append(f"above the {plan.longest_position:,} positions of the model")
    elif tokens > plan.max_model_len:
        limits.append(f"above max_model_len {plan.max_model_len:,}")
    if not plan.pool.fits(tokens):
        needs, has = plan.bytes_of(tokens), plan.pool.usable_blocks * plan.pool.block_bytes
        limits.append(f"more than the KV cache holds: {needs / GIB:.2f} of {has / GIB:.2f} GiB")
    return limits


def _sizes(num_bytes: int) -> str:
    gib, gb = num_bytes / GIB, num_bytes / 1e9
    return f"{num_bytes:,} B = {num_bytes / 2**20:.1f} MiB = {gib:.2f} GiB = {gb:.2f} GB"
