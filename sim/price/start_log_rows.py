"""A start-up log beside our account: line by line what differs, and where it most likely comes from.

A difference is explained in this order: a setting that nobody said and under which ours is as logged; the
parts whose differences add up to it; what is known of the line itself. None of it is proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from sim.hardware import HardwareProfile
from sim.hardware.vllm_releases import release_of
from sim.model.shape import ModelShape
from sim.price.memory_lines import CONTEXT_GIB, GIB, NCCL_GIB, graph_estimate, num_graphs, sampled_rows
from sim.price.memory_words import MemoryPlan
from sim.price.priced import PricedEngine
from sim.price.start_log import Fact, StartLog
from sim.scenario.dataclass import dataclass

Unit = Literal["bytes", "tokens", "blocks", "requests", "graphs"]
SAME = 0.005  # of the logged value, or what the log's two digits of a GiB leave open
_TWO_DIGITS = 0.0051 * GIB
_MOST_PADDED = 0.2  # of the weights: what kernels pad and repack is less


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Our account under one set of settings."""

    plan: MemoryPlan
    model: ModelShape
    engine: PricedEngine
    hardware: HardwareProfile

    def taken(self, label: str) -> int:
        """Bytes that the lines beginning so take; 0 where the account has none."""
        return sum(-line.num_bytes for line in self.plan.lines if line.label.startswith(label))

    @property
    def total(self) -> int:
        """Of the device."""
        return self.hardware.hbm_bytes

    @property
    def before_weights(self) -> int:
        """Free when SGLang begins to load: beside the context, as its account has it."""
        return self.total - self.taken("CUDA context")

    @property
    def left_for_kv(self) -> int:
        """What the lines leave, which may be below zero; else what was given."""
        if self.engine.kv_cache_memory_bytes is not None or self.plan.overridden:
            return self.plan.kv_budget_bytes
        return sum(line.num_bytes for line in self.plan.lines)

    @property
    def free_at_start(self) -> int:
        """Beside the CUDA context, and NCCL on several GPUs."""
        gib = CONTEXT_GIB + (NCCL_GIB if self.engine.gpus_per_replica > 1 else 0.0)
        return self.total - int(gib * GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of the account, and who said it. ``instead_of``: what the log says of it."""

    name: str
    value: Any
    origin: Literal["given", "log", "default", "assumed"]
    line: int = 0  # of the log
    instead_of: str = ""
    why: str = ""

    @property
    def said_by(self) -> str:
        """In words."""
        words = {"given": "given here", "default": "default: the log prints what is not"}
        who = (
            f"line {self.line}" if self.origin == "log" and self.line else words.get(self.origin, self.origin)
        )
        if self.instead_of:
            who += f", where the log says {self.instead_of}"
        return f"{who}: {self.why}" if self.why else who


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBeside:
    """A start-up log beside our account. ``ours`` is None where no account can be made: ``refusal`` says why.

    ``refusal`` beside an account: we would not have let it start.
    """

    log: StartLog
    settings: tuple[Setting, ...]
    rows: tuple[LogRow, ...]
    ours: Ours | None
    refusal: str = ""
    notes: tuple[str, ...] = ()


Account = Callable[[Mapping[str, Any]], Ours | None]
"""Our account with some settings changed; None where it cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """One quantity of the log beside ours. ``lines``: all that print it; ``text``: the one that was taken."""

    name: str
    label: str
    unit: Unit
    logged: float
    ours: float | None
    lines: tuple[int, ...]
    text: str
    ranks: str = ""
    why: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the log's."""
        return None if self.ours is None else self.ours - self.logged

    @property
    def is_same(self) -> bool:
        """As near as the log's digits tell."""
        return self.ours is not None and is_near(self.logged, self.ours, self.unit)


def is_near(logged: float, ours: float, unit: Unit) -> bool:
    """Whether a difference says nothing."""
    least = _TWO_DIGITS if unit == "bytes" else 0.0051
    return abs(ours - logged) <= max(least, SAME * abs(logged))


def _weights_and_growth(one: Ours) -> float:
    return one.taken("weights") + one.taken("outside of PyTorch") + one.taken("sampler state")


def _graphs(one: Ours) -> float | None:
    if one.engine.runtime != "vllm":
        return None
    return one.taken("CUDA graphs") or graph_estimate(one.engine, one.hardware).num_bytes


def _of_vllm(label: str) -> Callable[[Ours], float | None]:
    return lambda one: one.taken(label) if one.engine.runtime == "vllm" else None


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a log may say, how it is called here, and what ours is. ``settings``: which decide it."""

    label: str
    ours: Callable[[Ours], float | None]
    settings: tuple[str, ...] = ()
    unit: Unit = "bytes"


_OF_WEIGHTS = "quantization", "dtype", "tensor_parallel_size", "vllm_version"
_OF_PEAK = "sampler", "max_num_seqs", "max_num_batched_tokens", "vllm_version"
_SHARES = "gpu_memory_utilization", "mem_fraction_static", "free_gpu_memory_fraction"
_OF_LAYOUT = (
    "kv_cache_dtype", "block_size", "tensor_parallel_size", "enable_prefix_caching", "async_scheduling",
    "max_num_batched_tokens", "vllm_version",
)  # fmt: skip
QUANTITIES: Mapping[str, Quantity] = {
    "device_total_bytes": Quantity("device total", lambda one: one.total),
    "free_at_start_bytes": Quantity("free at the start", lambda one: one.free_at_start),
    "free_before_weights_bytes": Quantity("free before the weights", lambda one: one.before_weights),
    "usable_bytes": Quantity(
        "share of the total", lambda one: one.total - one.taken("left alone"), ("gpu_memory_utilization",)
    ),
    "weights_bytes": Quantity("weights", lambda one: one.taken("weights"), _OF_WEIGHTS),
    "free_after_weights_bytes": Quantity(
        "free after the weights", lambda one: one.before_weights - one.taken("weights"), _OF_WEIGHTS
    ),
    "consumed_bytes": Quantity("weights, state, outside of PyTorch", _weights_and_growth, _OF_WEIGHTS),
    "peak_torch_bytes": Quantity(
        "PyTorch's peak, weights included",
        lambda one: one.taken("weights") + one.taken("activation peak"),
        _OF_PEAK,
    ),
    "activation_peak_bytes": Quantity("activation peak", _of_vllm("activation peak"), _OF_PEAK),
    "non_torch_bytes": Quantity("outside of PyTorch", _of_vllm("outside of PyTorch"), ("vllm_version",)),
    "cuda_graphs_estimate_bytes": Quantity("CUDA graphs, estimated", _graphs, ("max_num_seqs",)),
    "cuda_graphs_bytes": Quantity("CUDA graphs", _graphs, ("max_num_seqs",)),
    "num_graphs": Quantity(
        "graphs",
        lambda one: sum(num_graphs(one.engine, one.hardware)),
        ("max_num_seqs", "max_num_batched_tokens"),
        "graphs",
    ),
    "kv_cache_bytes": Quantity("KV cache", lambda one: one.left_for_kv, (*_SHARES, *_OF_PEAK, *_OF_WEIGHTS)),
    "states_bytes": Quantity("states", lambda one: None),
    "distributed_bytes": Quantity(
        "process groups", lambda one: NCCL_GIB * GIB if one.engine.gpus_per_replica > 1 else 0
    ),
    "free_after_pool_bytes": Quantity(
        "free beside the KV cache",
        lambda one: one.before_weights - one.taken("weights") - one.left_for_kv,
        ("mem_fraction_static",),
    ),
    "block_size": Quantity(
        "tokens of a block",
        lambda one: max(group.block_size for group in one.plan.groups),
        _OF_LAYOUT,
        "tokens",
    ),
    "num_gpu_blocks": Quantity("KV blocks", lambda one: one.plan.num_gpu_blocks, _OF_LAYOUT, "blocks"),
    "kv_cache_tokens": Quantity("KV tokens", lambda one: one.plan.kv_budget_tokens, _OF_LAYOUT, "tokens"),
    "max_concurrency": Quantity(
        "full-length requests", lambda one: one.plan.max_concurrency, _OF_LAYOUT, "requests"
    ),
    "kv_cache_needed_bytes": Quantity(
        "KV of one full-length request", lambda one: one.plan.kv_bytes_per_full_request, _OF_LAYOUT
    ),
    "longest_that_fits": Quantity(
        "longest that fits", lambda one: one.plan.longest_that_fits, _OF_LAYOUT, "tokens"
    ),
}
OF_THE_POOL = ("num_gpu_blocks", "kv_cache_tokens", "max_concurrency", "longest_that_fits")
"""What follows from the bytes of the KV cache."""

# Beside vLLM's releases, which depend on what the log's wordings allow.
TRIED: Mapping[str, tuple[Any, ...]] = {
    "sampler": ("flashinfer", "pytorch", "triton"),
    "max_num_seqs": (64, 128, 256, 512, 1024),
    "max_num_batched_tokens": (2048, 4096, 8192, 16384),
    "quantization": ("fp8", "int8", "int4"),
    "dtype": ("bfloat16", "float16", "float32"),
    "kv_cache_dtype": ("fp8", "bfloat16"),
    "block_size": (16, 32, 64, 128),
    "tensor_parallel_size": (1, 2, 4, 8),
    "gpu_memory_utilization": (0.9, 0.92, 0.95),
    "enable_prefix_caching": (False,),
    "async_scheduling": (False,),
    "free_gpu_memory_fraction": (0.8, 0.85, 0.95),
}


Tried = Mapping[str, Sequence[Any]]
"""Settings that neither the log nor the user said, by what they could have been."""


def rows_of(log: StartLog, account: Account, tried: Tried) -> tuple[LogRow, ...]:
    """Every quantity of the log beside ours."""
    ours = account({})
    found = {name: facts for name in QUANTITIES if (facts := facts_of(log, name))}
    logged = {name: _chosen(name, facts) for name, facts in found.items()}
    values = {name: float(_number(fact)) for name, fact in logged.items()}
    if (encoder := log.last("encoder_tokens")) is not None:
        values["encoder_tokens"] = float(_number(encoder))
    found_by = _Explainer(values, ours, account, tried) if ours else None
    rows = []
    for name, fact in logged.items():
        quantity = QUANTITIES[name]
        own = quantity.ours(ours) if ours else None
        row = LogRow(
            name=name,
            label=quantity.label,
            unit=quantity.unit,
            logged=values[name],
            ours=own,
            lines=tuple(dict.fromkeys(one.line for one in found[name])),
            text=log.texts.get(fact.line, ""),
            ranks=_spread(found[name], quantity.unit),
            why=found_by.why(name, own) if found_by and own is not None else "",
        )
        rows.append(row)
    return tuple(rows)


def facts_of(log: StartLog, name: str) -> tuple[Fact, ...]:
    """What was said of it; the two halves of a cache, and the two kinds of graphs, added up."""
    halves = {
        "kv_cache_bytes": ("k_cache_bytes", "v_cache_bytes"),
        "states_bytes": ("conv_states_bytes", "ssm_states_bytes"),
        "num_graphs": ("piecewise_graphs", "full_graphs"),
    }
    said = log.of(name)
    if said or name not in halves:
        return said
    first, second = (log.of(one) for one in halves[name])
    return tuple(
        Fact(name=name, value=_number(one) + _number(other), line=one.line, rank=one.rank)
        for one, other in zip(first, second, strict=False)
        if one.line == other.line
    )


def _number(fact: Fact) -> float:
    return fact.value if isinstance(fact.value, (int, float)) else 0.0


def _by_rank(facts: Sequence[Fact]) -> Mapping[str, Fact]:
    """The last that each rank says; of weights the first, which has more digits."""
    ordered = reversed(facts) if facts[0].name == "weights_bytes" else facts
    return {fact.rank: fact for fact in ordered}


def _chosen(name: str, facts: Sequence[Fact]) -> Fact:
    """Of several GPUs the fullest: the fewest blocks count for all."""
    choose = min if name in ("kv_cache_bytes", *OF_THE_POOL) or name.startswith("free") else max
    return choose(_by_rank(facts).values(), key=_number)


def _spread(facts: Sequence[Fact], unit: Unit) -> str:
    by_rank = {rank: fact for rank, fact in _by_rank(facts).items() if rank}
    values = [_number(fact) for fact in by_rank.values()]
    if len(values) < 2:
        return ""
    if is_near(min(values), max(values), unit):
        return f"the same on {len(values)} GPUs"
    return f"{said(min(values), unit)} to {said(max(values), unit)} on {len(values)} GPUs"


def said(value: float, unit: Unit, *, signed: bool = False) -> str:
    """A value with its unit: GiB with two digits, counts with thousands."""
    plus = "+" if signed else ""
    if unit == "bytes":
        return f"{value / GIB:{plus}.2f} GiB"
    if unit == "requests":
        return f"{value:{plus}.2f}x"
    return f"{value:{plus},.0f}"


class _Explainer:
    """Why ours differs from what was logged."""

    def __init__(self, logged: Mapping[str, float], ours: Ours, account: Account, tried: Tried) -> None:
        self.logged, self.ours, self.account, self.tried = logged, ours, account, tried
        self._made: dict[tuple[str, Any, bool], Ours | None] = {}
        self._of_logged_kv = self._with({}, of_logged_kv=True)

    def why(self, name: str, own: float) -> str:
        """Empty where there is no difference."""
        quantity, logged = QUANTITIES[name], self.logged[name]
        if is_near(logged, own, quantity.unit):
            return ""
        if name in OF_THE_POOL:
            return "; ".join(self._of_the_pool(name))
        if name == "kv_cache_bytes":
            return "; ".join(self._of_kv())
        return "; ".join([*self._settings_that_fit(name), *self._known_of(name, own)])

    def _with(self, changes: Mapping[str, Any], *, of_logged_kv: bool) -> Ours | None:
        kv = int(self.logged.get("kv_cache_bytes", 0))
        if of_logged_kv and kv <= 0:
            return None
        return self.account({**changes, **({"kv_cache_memory_bytes": kv} if of_logged_kv else {})})

    def _settings_that_fit(
        self, name: str, settings: Sequence[str] = (), *, of_logged_kv: bool = False
    ) -> Iterator[str]:
        """Settings that nobody said, one alone of which closes nine tenths of the gap: the nearest two."""
        quantity, logged, found = QUANTITIES[name], self.logged[name], []
        now = quantity.ours(self._of_logged_kv if of_logged_kv and self._of_logged_kv else self.ours) or 0.0
        gap = abs(now - logged)
        for setting in (one for one in dict.fromkeys(settings or quantity.settings) if one in self.tried):
            for value in self.tried[setting]:
                asked = setting, value, of_logged_kv
                if asked not in self._made:
                    self._made[asked] = self._with({setting: value}, of_logged_kv=of_logged_kv)
                other = self._made[asked]
                own = quantity.ours(other) if other else None
                if own is None or own == now:
                    continue
                if not is_near(logged, own, quantity.unit) and abs(own - logged) >= gap / 10:
                    continue
                found.append((abs(own - logged), f"{setting} {value} would give {said(own, quantity.unit)}"))
        words = [text for _, text in sorted(found)[:2]]
        if words:
            yield "most likely " + ", or ".join(words)

    def _of_the_pool(self, name: str) -> Iterator[str]:
        """Whether the KV cache's bytes differ, or what is made of them."""
        quantity, logged, other = QUANTITIES[name], self.logged[name], self._of_logged_kv
        if other is None:
            of_kv = QUANTITIES["kv_cache_bytes"].settings
            yield from self._settings_that_fit(name, (*quantity.settings, *of_kv))
            own = quantity.ours(self.ours) or 0.0
            if own > 0 and logged > 0:
                held = self.ours.left_for_kv * logged / own
                ours = said(self.ours.left_for_kv, "bytes")
                yield f"by our bytes it is a KV cache of {said(held, 'bytes')}, where ours has {ours}"
            return
        own = quantity.ours(other) or 0.0
        kv = said(self.logged["kv_cache_bytes"], "bytes")
        slack = abs(logged) * _TWO_DIGITS / max(self.logged["kv_cache_bytes"], 1.0)
        if is_near(logged, own, quantity.unit) or abs(own - logged) <= slack:
            yield f"it is the KV cache's bytes: of the logged {kv} ours is {said(own, quantity.unit)}"
            return
        yield f"of the logged {kv} ours is {said(own, quantity.unit)}: the size of a token or request differs"
        yield from self._settings_that_fit(name, of_logged_kv=True)
        kinds = {group.kind for group in self.ours.plan.groups}
        if kinds != {"full"}:
            yield "windows and states reserve what is in flight, which releases count differently"

    def _of_kv(self) -> Iterator[str]:
        """The other lines' differences, and what of KV's they leave."""
        gap = self.ours.left_for_kv - self.logged["kv_cache_bytes"]
        names = self._names_of_parts()
        known, left = [], gap
        for name in (one for one in names if one in self.logged):
            more = (QUANTITIES[name].ours(self.ours) or 0.0) - self.logged[name]
            left -= more if name == "usable_bytes" else -more
            if abs(more) > _TWO_DIGITS:
                known.append(f"{QUANTITIES[name].label} {said(more, 'bytes', signed=True)}")
        missing = [QUANTITIES[name].label for name in names if name not in self.logged]
        if abs(left) > 2 * _TWO_DIGITS and missing:
            yield from self._settings_that_fit("kv_cache_bytes")
        if known:
            yield f"ours has {', '.join(known)}"
        if abs(left) > 2 * _TWO_DIGITS:
            where = (
                f"what the log does not say ({', '.join(missing)})" if missing else "none of the logged lines"
            )
            yield f"{said(abs(left), 'bytes')} of the difference lie in {where}"

    def _names_of_parts(self) -> list[str]:
        """The lines that KV is what is left of."""
        if self.ours.engine.runtime != "vllm":
            return ["weights_bytes"]
        names = ["weights_bytes", "activation_peak_bytes", "non_torch_bytes"]
        if "consumed_bytes" in self.logged:
            names = ["consumed_bytes", "activation_peak_bytes"]
        if "usable_bytes" in self.logged or "gpu_memory_utilization" in self.tried:
            names.insert(0, "usable_bytes")
        return [*names, "cuda_graphs_estimate_bytes"] if self.ours.taken("CUDA graphs") else names

    def _known_of(self, name: str, own: float) -> Iterator[str]:
        """What is known of such lines."""
        logged, one = self.logged[name], self.ours
        if name in ("device_total_bytes", "free_at_start_bytes", "free_before_weights_bytes"):
            yield "another device or partition than the profile's, or memory that others hold"
        elif name == "free_after_weights_bytes" and is_near(
            self.logged.get("weights_bytes", 0.0), one.taken("weights"), "bytes"
        ):
            yield "the weights are as logged: another device than the profile's, or memory that others hold"
        elif name == "free_after_pool_bytes":
            yield "the share for weights and KV, or memory that others hold"
        elif name in ("weights_bytes", "free_after_weights_bytes", "consumed_bytes"):
            yield from self._known_of_weights(own / logged if logged else 0.0)
        elif name in ("activation_peak_bytes", "peak_torch_bytes"):
            yield from self._known_of_peak(name)
        elif name == "non_torch_bytes":
            release = release_of(one.engine.vllm_version)
            yield (
                f"ours is a constant of measured starts ({release.non_torch_gib:g} GiB on one GPU, "
                f"{release.non_torch_gib_of_tensor_parallel:g} under tensor parallelism); driver, NCCL and "
                "attention back end change it, and what other processes took meanwhile counts in it"
            )
        elif name in ("cuda_graphs_bytes", "cuda_graphs_estimate_bytes"):
            graphs = int(self.logged.get("num_graphs", sum(num_graphs(one.engine, one.hardware))))
            each = logged / max(graphs, 1) / 2**20
            yield f"{each:.1f} MiB for each of {graphs} graphs, and half to twice of 9.5 were logged by model"
        elif name in ("num_graphs", "block_size"):
            yield "other sizes were asked for, or another release chooses them"
        elif name == "kv_cache_needed_bytes":
            yield "a token takes another size: kv_cache_dtype, the shape, or all stages counted as one"
        elif name == "usable_bytes":
            yield "another total or another share"
        elif name == "distributed_bytes":
            yield f"ours is {NCCL_GIB:g} GiB for NCCL on several GPUs, assumed"

    def _known_of_weights(self, ratio: float) -> Iterator[str]:
        if self.ours.model.uncounted:
            yield f"not counted: {self.ours.model.uncounted}"
        if "encoder_tokens" in self.logged and not self.ours.model.encoder_parameters:
            yield "the log's model has a multimodal encoder, which this shape has not"
        near = next((f"{n} times" for n in (2, 4, 8) if abs(ratio / n - 1) < 0.1), "")
        near = near or next((f"1/{n}" for n in (2, 4, 8) if abs(ratio * n - 1) < 0.1), "")
        if near:
            yield f"ours is about {near} of it: another width of the weights, or another number of GPUs"
        elif abs(ratio - 1) > _MOST_PADDED:
            yield "another checkpoint than the config given, or weights split over other GPUs than ours"
        else:
            yield "another checkpoint than the config given, or what its kernels pad and repack"

    def _known_of_peak(self, name: str) -> Iterator[str]:
        engine, model = self.ours.engine, self.ours.model
        peak = self.logged[name]
        if name == "peak_torch_bytes":
            peak -= self.logged.get("weights_bytes", self.ours.taken("weights"))
        own = next(line.formula for line in self.ours.plan.lines if line.label == "activation peak")
        if own.startswith("sampler"):
            logits = sampled_rows(engine) * model.vocab_size
            yield f"the log's are {peak / logits:.1f} B for each of {sampled_rows(engine):,} rows of logits"
        yield f"ours is {own}"
        if model.uncounted or model.encoder_parameters or "encoder_tokens" in self.logged:
            yield "the encoder's own run is not in ours"
