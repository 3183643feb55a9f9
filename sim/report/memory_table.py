"""Accounts of ``gpuyard memory``, one or several, as text, as a table and as JSON: one schema for both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sim.hardware import HardwareProfile
from sim.model.shape import ModelShape
from sim.price.memory_lines import GIB
from sim.price.memory_words import Fit, MemoryPlan, above, fit_lines, render_memory
from sim.price.priced import PricedEngine
from sim.report.memory import memory_bar
from sim.scenario.dataclass import dataclass

_BRACKETS = (
    "  full requests: vLLM's own maximum concurrency, each with all that its prompt takes while it is",
    "  computed; in brackets how many the blocks hold at most while they decode",
)
LISTS = ("lines", "groups", "notes", "warnings", "start_warnings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one start on one device would hold, and why it does not start.

    ``plan`` is there without a start, too, where the settings go together: what is missing can be read in it.
    """

    model: ModelShape
    hardware: HardwareProfile
    tensor_parallel_size: int
    engine: PricedEngine | None
    plan: MemoryPlan | None
    refusal: str = ""
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Which row of a table."""
        return f"{self.hardware.name}, TP {self.tensor_parallel_size}"

    @property
    def gpus(self) -> str:
        """Of which GPUs each line is."""
        count = self.engine.gpus_per_replica if self.engine else self.tensor_parallel_size
        return f"each of {count} GPUs" if count > 1 else "one GPU"

    def fits(self) -> tuple[Fit, ...]:
        """How many requests of which length at once."""
        return self.plan.fits() if self.plan else ()

    def all_notes(self) -> tuple[str, ...]:
        """Of this account."""
        return (*self.notes, *(self.plan.notes if self.plan else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked beside the account: ``--tokens`` and ``--fit``."""

    tokens: int | None = None
    fit: bool = False


# --- JSON and CSV ---


def account_json(account: Account, asked: Asked) -> dict[str, Any]:
    """Bytes of one GPU; every key is there whatever was asked, null where there is no number."""
    engine, plan, tokens = account.engine, account.plan, asked.tokens
    of_plan = plan.to_dict() if plan else _unknown_plan()
    told = ("pipeline_parallel_size", "dtype", "quantization", "kv_cache_dtype", "gpu_memory_utilization")
    own = {name: getattr(engine, name) if engine else None for name in told}
    if engine is None or engine.runtime != "vllm":
        own["gpu_memory_utilization"] = None  # vLLM's
    asked_for = tokens if plan else None
    return {
        "model": account.model.name,
        "hardware": account.hardware.name,
        "account": of_plan.pop("account"),
        "starts": not account.refusal,
        "reason": account.refusal,
        "tensor_parallel_size": account.tensor_parallel_size,
        **own,
        "num_gpus": engine.gpus_per_replica if engine else None,
        "weight_bytes": plan.weight_bytes if plan else None,
        **of_plan,
        "longest_that_fits": (plan.longest_that_fits or None) if plan else None,
        "notes": list(account.all_notes()),
        "tokens": tokens,
        "kv_bytes_of_tokens": plan.bytes_of(asked_for) if plan and asked_for else None,
        "kv_bytes_of_tokens_while_decoding": plan.bytes_held(asked_for) if plan and asked_for else None,
        "tokens_above": above(plan, asked_for) if plan and asked_for else [],
        "fit": [
            {
                "tokens": one.tokens,
                "requests": one.requests,
                "limited_by": one.limited_by,
                "max_concurrency": one.max_concurrency,
            }
            for one in (account.fits() if asked.fit else ())
        ],
    }


def _unknown_plan() -> dict[str, Any]:
    names = [one.name for one in fields(MemoryPlan) if one.name not in ("pool", "doubts", *LISTS)]
    return {**dict.fromkeys([*names, "decoding_requests", "block_bytes"]), **{name: [] for name in LISTS}}


def account_rows(contents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row of single values for each account; of lists the number of requests by their length."""
    rows = []
    for content in contents:
        row = {name: value for name, value in content.items() if not isinstance(value, list)}
        row |= {f"requests_of_{one['tokens']}_tokens": one["requests"] for one in content["fit"]}
        row["warnings"] = "; ".join(content["warnings"])
        rows.append(row)
    return rows


# --- text ---


def account_text(account: Account, asked: Asked) -> str:
    """Warnings, the bar, the account with its formulas, notes, and what was asked."""
    plan = account.plan
    if plan is None:
        return f"{account.model.name} on {account.where}: {account.refusal}"
    head = f"{account.model.name} on {account.hardware.name}, {account.gpus}, {plan.account}"
    warned = [*(f"warning: {one}" for one in plan.all_warnings)]
    if warned:
        warned.append("")
    lines = [head, "", *warned, memory_bar(plan), "", render_memory(plan, asked.tokens)]
    lines += [f"note: {one}" for one in account.notes]
    if asked.fit:
        lines += ["", *fit_lines(plan)]
    return "\n".join(lines)


def table_text(model: str, accounts: Sequence[Account], asked: Asked) -> str:
    """GiB a GPU, a row for each account; then why one does not start, and what was asked."""
    whose = dict.fromkeys(one.plan.account for one in accounts if one.plan)
    lines = [f"{model}, each GPU, {', '.join(whose)}" if whose else f"{model}, each GPU", ""]
    warned = [*_told("warning", [(one.where, _warnings(one)) for one in accounts])]
    lines += [*warned, ""] if warned else []
    lines += _rows(accounts)
    if any(one.plan and one.plan.lets_go for one in accounts):
        lines += ["", *_BRACKETS]
    refused = [f"  {one.where} does not start: {one.refusal}" for one in accounts if one.refusal]
    lines += ["", *refused] if refused else []
    if asked.tokens is not None:
        lines += ["", *_tokens_rows(accounts, asked.tokens)]
    if asked.fit:
        lines += ["", *_fit_rows(accounts)]
    noted = [*_told("note", [(one.where, one.all_notes()) for one in accounts])]
    return "\n".join([*lines, *([""] if noted else []), *noted])


def _warnings(account: Account) -> tuple[str, ...]:
    return account.plan.all_warnings if account.plan else ()


def _told(what: str, said: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    """Each sentence once, with the rows that it is of unless it is of all."""
    whose: dict[str, list[str]] = {}
    for where, sentences in said:
        for sentence in sentences:
            whose.setdefault(sentence, []).append(where)
    for sentence, places in whose.items():
        rows = "" if len(places) == len(said) else f"{'; '.join(places)}: "
        yield f"{what}: {rows}{sentence}"


def _rows(accounts: Sequence[Account]) -> Iterator[str]:
    width = _width(accounts)
    yield (
        f"  {'':<{width}}  TP{'weights GiB':>13}{'KV GiB':>9}{'KV tokens':>13}{'full requests':>24}"
        f"{'longest context':>17}"
    )
    for one in accounts:
        plan = one.plan
        if plan is None:
            yield f"{_start(one, width)}  does not start"
            continue
        decoding = f" ({plan.fit_of(plan.max_model_len).requests:,})" if plan.lets_go else ""
        full = f"{plan.max_concurrency:.2f}{decoding} of {plan.max_model_len:,}"
        longest = f"{plan.longest_that_fits:,}" if plan.longest_that_fits else "-"
        yield (
            f"{_start(one, width)}{plan.weight_bytes / GIB:>13.2f}{plan.kv_budget_bytes / GIB:>9.2f}"
            f"{plan.kv_budget_tokens:>13,}{full:>24}{longest:>17}"
        ) + ("  does not start" if one.refusal else "")


def _width(accounts: Sequence[Account]) -> int:
    return max(len(one.hardware.name) for one in accounts)


def _start(account: Account, width: int) -> str:
    return f"  {account.hardware.name:<{width}}{account.tensor_parallel_size:>4}"


def _tokens_rows(accounts: Sequence[Account], tokens: int) -> Iterator[str]:
    width = _width(accounts)
    yield f"  {tokens:,} tokens"
    yield f"  {'':<{width}}  TP{'KV GiB':>13}{'while it decodes':>20}"
    for one in accounts:
        if one.plan is not None:
            most, held = (size / GIB for size in (one.plan.bytes_of(tokens), one.plan.bytes_held(tokens)))
            told = "".join(f"  {limit}" for limit in above(one.plan, tokens))
            yield f"{_start(one, width)}{most:>13.2f}{held:>20.2f}{told}"


def _fit_rows(accounts: Sequence[Account]) -> Iterator[str]:
    """Requests at once, a column for each length; a device's own longest is a column of the first table."""
    width, found = _width(accounts), [(one, {fit.tokens: fit for fit in one.fits()}) for one in accounts]
    lengths = sorted({tokens for _, fits in found for tokens in fits if tokens & (tokens - 1) == 0})
    lets_go = any(one.plan.lets_go for one in accounts if one.plan)
    decoding = " while they decode" if lets_go else ""
    yield f"  at most so many requests at once{decoding}, by their tokens"
    yield f"  {'':<{width}}  TP" + "".join(f"{tokens:>10,}" for tokens in lengths)
    for one, fits in found:
        counts = [f"{fits[tokens].requests:,}" if tokens in fits else "-" for tokens in lengths]
        yield _start(one, width) + "".join(f"{count:>10}" for count in counts)
    if any(fit.limited_by == "max_num_seqs" for _, fits in found for fit in fits.values()):
        limits = dict.fromkeys(fit.max_num_seqs for _, fits in found for fit in fits.values())
        yield f"  max_num_seqs allows no more than {' or '.join(f'{limit:,}' for limit in limits)}"
