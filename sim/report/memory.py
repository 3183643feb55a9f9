"""``gpuyard memory`` as text, rows, JSON and a page: what stands where in a GPU's memory."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from sim.price.memory_lines import GIB
from sim.price.memory_words import MemoryPlan, render_memory, tokens_lines
from sim.price.start_log_rows import LogBeside, LogRow, Ours, said
from sim.report.blocks import Block, Bullets, Code, Prose, Report, Section, text_table
from sim.report.figures import SEEN_FROM, Picture, Row, axis, bars_layout, percent, stacked_bars
from sim.report.html import page, report_html
from sim.report.terminal import WIDTH, Grid
from sim.scenario.dataclass import dataclass
from sim.version import __version__

KV = {"full": "KV cache", "sliding": "KV of windows", "chunked": "KV of chunks", "state": "states"}
# What is in a GPU's memory, from its bottom: the letter in the terminal's bar, the ink on the page. A label
# of the account begins with one of these names.
PARTS: Mapping[str, tuple[str, str]] = {
    "weights": ("W", "v0"),
    "sampler state": ("S", "v4"),
    "CUDA context": ("C", "v7"),
    "outside of PyTorch": ("o", "v3"),
    "CUDA graphs": ("G", "v6"),
    "activation": ("A", "v1"),
    "KV cache": ("K", "v2"),
    "KV of windows": ("w", "cached"),
    "KV of chunks": ("c", "reserved"),
    "states": ("s", "v5"),
    "unused": ("-", "waits"),
    "not static": (".", "free"),
    "left free": (".", "free"),
    "not said": ("?", "waits"),
    "left alone": (".", "free"),
}
_SHOWN_AS = {
    "activation": "activation peak",
    "left alone": "outside of the share",
    "not static": "not static",
}
BAR = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPage:
    """What a page shows: one account or several, by their names, and a log beside the first.

    ``tokens`` and ``has_fits``: what was asked beside the accounts; ``notes``: what else is said of one.
    """

    title: str
    plans: Mapping[str, MemoryPlan]
    command: str
    tokens: int | None = None
    has_fits: bool = False
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: LogBeside | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


def parts_of(plan: MemoryPlan) -> dict[str, int]:
    """Bytes by part, from the bottom up. The KV cache is parted as full-length requests would fill it."""
    total, found = plan.lines[0].num_bytes, dict.fromkeys(PARTS, 0)
    for line in plan.lines[1:]:
        found[next(part for part in PARTS if line.label.startswith(part))] -= line.num_bytes
    for kind, share in _kinds(plan).items():
        found[KV[kind]] += int(max(0, plan.kv_budget_bytes) * share)
    unused = total - sum(found.values())
    found["unused"] = unused if unused > total * SEEN_FROM else 0  # of given bytes; else what rounding leaves
    return {part: size for part, size in found.items() if size > 0}


def _kinds(plan: MemoryPlan) -> dict[str, float]:
    """Shares of a full-length request's blocks by what they hold."""
    blocks: dict[str, int] = {}
    for group in plan.groups:
        own = group.blocks(plan.max_model_len, plan.pool.in_flight_tokens)
        blocks[group.kind] = blocks.get(group.kind, 0) + own
    return {kind: own / sum(blocks.values()) for kind, own in blocks.items()}


def memory_bar(plan: MemoryPlan) -> str:
    """The GPU's memory as one line of letters, each the same number of bytes, and what they mean."""
    parts = parts_of(plan)
    whole = max(plan.lines[0].num_bytes, sum(parts.values()))
    ends, letters, reached = [], "", 0
    for part, size in parts.items():
        reached += size
        width = round(reached / whole * BAR) - len(letters)
        letters += PARTS[part][0] * max(0, width)
        ends.append(f"{PARTS[part][0]} {_SHOWN_AS.get(part, part)} {_share(size / whole)}")
    return "\n".join([f"  [{letters}]", *_in_lines(ends)])


def _share(share: float) -> str:
    return "< 1 %" if share < 0.01 else percent(round(share, 2))


def _in_lines(words: Sequence[str]) -> list[str]:
    """Side by side, as many as a line has room for."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 4 > WIDTH:
            lines.append("")
        lines[-1] += f"  {word}"
    return lines


def memory_picture(page_of: MemoryPage) -> Picture:
    """A bar for each account, from weights to what is left alone; the log's own under the first."""
    named = {name: parts_of(plan) for name, plan in page_of.plans.items()}
    if page_of.beside is not None and page_of.beside.ours is not None:
        named |= {"the log": _parts_of_log(page_of.beside, page_of.beside.ours)}
    labels = list(named)
    columns = {
        _SHOWN_AS.get(part, part): (ink, [named[name].get(part, 0) / GIB for name in labels])
        for part, (_, ink) in PARTS.items()
    }
    rows: list[Row] = [
        (name, _SHOWN_AS.get(part, part), float(size))
        for name in labels
        for part, size in named[name].items()
    ]
    name, plan = next(iter(page_of.plans.items()))
    sizes = {_SHOWN_AS.get(part, part): size for part, size in named[name].items()}
    told = ", ".join(f"{part} {size / GIB:.2f} GiB" for part, size in sizes.items())
    return Picture(
        key="memory",
        title="What stands where in the GPU's memory",
        reading=f"{name}: {told}. The KV cache is shared out as requests of {plan.max_model_len:,} tokens "
        "fill it.",
        traces=stacked_bars(columns, labels, " GiB"),
        layout=bars_layout(axis("GiB of one GPU", rangemode="tozero")),
        header=("account", "part", "bytes"),
        rows=rows,
        height_px=150 + 56 * len(labels),
        sketch=memory_bar(plan),
    )


def _parts_of_log(beside: LogBeside, ours: Ours) -> dict[str, int]:
    """What the log says, and how much of the memory it does not."""
    logged = {row.name: int(row.logged) for row in beside.rows}
    names = {
        "weights": "weights_bytes", "outside of PyTorch": "non_torch_bytes", "KV cache": "kv_cache_bytes",
        "activation": "activation_peak_bytes", "CUDA graphs": "cuda_graphs_bytes",
    }  # fmt: skip
    found = {part: max(0, logged[name]) for part, name in names.items() if name in logged}
    if not ours.taken("CUDA graphs"):
        found.pop("CUDA graphs", None)  # outside of the share
    total = logged.get("device_total_bytes", ours.total)
    found["left alone"] = max(0, total - logged.get("usable_bytes", ours.total - ours.taken("left alone")))
    found["not said"] = max(0, total - sum(found.values()))
    return {part: found[part] for part in PARTS if found.get(part)}


# --- a log beside ours, as text and as rows ---


def log_text(beside: LogBeside, name: str) -> str:
    """The table, what differs in words, the settings and who said them, then what is not sure."""
    head = _head(beside, name)
    warned = [_wrapped(f"warning: {one}", "") for one in _warnings(beside)]
    parts = [head, *warned, log_table(beside), *_paragraphs(beside), _settings_table(beside)]
    notes = [f"note: {one}" for one in beside.notes]
    if beside.ours is not None:
        plan = beside.ours.plan
        parts.append(memory_bar(plan) + "\n")
        notes += [f"note: {one}" for one in plan.notes]
    parts += [_wrapped(note, "") for note in notes]
    return "\n".join(parts).rstrip("\n")


def _warnings(beside: LogBeside) -> tuple[str, ...]:
    return beside.ours.plan.all_warnings if beside.ours else ()


def _head(beside: LogBeside, name: str) -> str:
    if beside.ours is None:
        why = _wrapped(f"no account to put beside it: {beside.refusal}", "")
        return f"{name}, a start of {beside.log.engine}\n{why}"
    ours = beside.ours
    count = ours.engine.gpus_per_replica
    gpus = f"each of {count} GPUs" if count > 1 else "one GPU"
    device = next((one for one in beside.settings if one.name == "hardware"), None)
    named = ours.hardware.name + (" (assumed)" if device is not None and device.origin == "assumed" else "")
    head = f"{name} beside {ours.model.name} on {named}, {gpus}, {ours.plan.account}"
    if beside.refusal:
        head += "\n" + _wrapped(f"by our account it does not start: {beside.refusal}", "")
    return head


def log_table(beside: LogBeside) -> str:
    """Line by line: what the log says, what ours is, and the difference."""
    table = Grid()
    table.add_column("line", justify="right")
    table.add_column("what", overflow="fold")
    for header in ("the log", "ours", "ours less the log"):
        table.add_column(header, justify="right")
    for row in beside.rows:
        table.add_row(_lines(row), row.label, *_cells(row))
    return table.drawn().rstrip("\n") + "\n"


def _lines(row: LogRow) -> str:
    shown = ", ".join(str(line) for line in row.lines[:3])
    return shown + (", ..." if len(row.lines) > 3 else "")


def _cells(row: LogRow) -> tuple[str, str, str]:
    logged = said(row.logged, row.unit)
    if row.ours is None or row.difference is None:
        return logged, "-", "-"
    if row.is_same:
        return logged, said(row.ours, row.unit), "same"
    relative = f" ({row.difference / abs(row.logged):+.1%})" if row.logged else ""
    return logged, said(row.ours, row.unit), said(row.difference, row.unit, signed=True) + relative


def _paragraphs(beside: LogBeside) -> Iterator[str]:
    told = [*_differences(beside)]
    if told:
        yield "What differs, and where it most likely comes from"
        yield "\n".join(_wrapped(one, "- ") for one in told) + "\n"
    unknown = [row.label for row in beside.rows if row.ours is None]
    if unknown and beside.ours is not None:
        yield _wrapped(f"ours has no such line: {', '.join(unknown)}", "") + "\n"


def _differences(beside: LogBeside) -> Iterator[str]:
    for row in beside.rows:
        ranks = f", {row.ranks}" if row.ranks else ""
        if row.why:
            yield f"{row.label} (line {_lines(row)}{ranks}): {row.why}"


def _settings_table(beside: LogBeside) -> str:
    """Each setting, its value, and who said it; of what is assumed the reason, if there is one."""
    width = max(len(one.name) for one in beside.settings)
    values = max(len(_value(one.value)) for one in beside.settings)
    lines = []
    for one in beside.settings:
        start = f"  {one.name:<{width}}  {_value(one.value):<{values}}  "
        rest = textwrap.wrap(one.said_by, max(30, WIDTH - len(start)), break_on_hyphens=False)
        lines += [start + rest[0], *(" " * len(start) + more for more in rest[1:])]
    return "Settings, and who said them\n" + "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def _wrapped(text: str, bullet: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent="  ", break_on_hyphens=False)


def log_rows(beside: LogBeside) -> list[dict[str, Any]]:
    """A row for each quantity of the log, for CSV and JSON: bytes and counts."""
    return [
        {
            "line": row.lines[0],
            "what": row.label,
            "unit": row.unit,
            "logged": row.logged,
            "ours": row.ours,
            "difference": row.difference,
            "same": row.is_same,
            "gpus": row.ranks,
            "why": row.why,
            "text": row.text,
        }
        for row in beside.rows
    ]


def log_json(beside: LogBeside, name: str) -> dict[str, Any]:
    """Everything: rows, settings with who said them, our account."""
    return {
        "log": name,
        "engine": beside.log.engine,
        "lines": log_rows(beside),
        "settings": [
            {
                "name": one.name,
                "value": one.value,
                "origin": one.origin,
                "line": one.line or None,
                "log_says": one.instead_of or None,
                "why": one.why,
            }
            for one in beside.settings
        ],
        "does_not_start": beside.refusal if beside.ours else "",
        "no_account": "" if beside.ours else beside.refusal,
        "notes": list(beside.notes),
        "account": beside.ours.plan.to_dict() if beside.ours else None,
    }


# --- the page ---


def render_memory_page(page_of: MemoryPage) -> str:
    """The whole file."""
    report = memory_report(page_of)
    pictures = [picture for section in report.sections for picture in section.pictures]
    return page(title=page_of.title, body=report_html(report), pictures=pictures)


def memory_report(page_of: MemoryPage) -> Report:
    """The answer, what stands where, the log line by line, the account, what is not sure."""
    sections = []
    if warned := [*_told_of(page_of)]:
        sections.append(Section(title="Warnings", blocks=[Bullets(items=tuple(warned))]))
    if page_of.plans:
        several = [_side_by_side(page_of)] if len(page_of.plans) + len(page_of.refused) > 1 else []
        picture = memory_picture(page_of)
        sections.append(Section(title="The GPU's memory", blocks=several, pictures=[picture]))
    if page_of.beside is not None:
        sections.append(Section(title="The log, line by line", blocks=_log_blocks(page_of.beside)))
    for name, plan in page_of.plans.items():
        blocks = _plan_blocks(plan, page_of.notes.get(name, ()))
        if page_of.tokens is not None:
            told = tuple(line.strip() for line in tokens_lines(plan, page_of.tokens))
            blocks.insert(1, Bullets(items=told))
        sections.append(Section(title=f"The account: {name}", blocks=blocks))
        if page_of.has_fits:
            sections.append(Section(title=f"How many of which length: {name}", blocks=[_fits_table(plan)]))
    if page_of.refused:
        table = text_table(("where", "why it does not start"), [*page_of.refused.items()])
        sections.append(Section(title="What does not start", blocks=[table]))
    again: list[Block] = [Code(text=page_of.command), Prose(text=f"gpuyard {__version__}")]
    return Report(
        question=page_of.title,
        answer=_answer(page_of),
        badges=(),
        sections=[*sections, Section(title="Again", blocks=again)],
    )


def _answer(page_of: MemoryPage) -> str:
    beside = page_of.beside
    if beside is not None and beside.ours is None:
        return f"No account to put beside the log: {beside.refusal}."
    if beside is not None:
        known = [row for row in beside.rows if row.ours is not None]
        same = sum(row.is_same for row in known)
        refused = f" By our account it does not start: {beside.refusal}." if beside.refusal else ""
        kv = next((row for row in known if row.name == "kv_cache_bytes"), None)
        words = f" KV cache: {_cells(kv)[0]} logged, {_cells(kv)[1]} by ours." if kv else ""
        return f"{same} of {len(known)} values are as logged.{words}{refused}"
    if not page_of.plans:
        return "None of them starts."
    count, several = len(page_of.plans) + len(page_of.refused), ""
    name, plan = next(iter(page_of.plans.items()))
    if count > 1:
        several = f"{len(page_of.plans)} of {count} start. {name}: "
    fit, most = plan.fit_of(plan.max_model_len), ""
    if plan.lets_go:
        most = f" (up to {fit.requests:,} while they decode)"
    elif fit.limited_by == "max_num_seqs":
        most = f" (max_num_seqs allows {fit.requests:,})"
    return (
        f"{several}{plan.kv_budget_bytes / GIB:.2f} GiB are for the KV cache: {plan.kv_budget_tokens:,} "
        f"tokens, {plan.max_concurrency:.2f} requests of {plan.max_model_len:,} tokens at once{most}; the "
        f"longest that fits is {plan.longest_that_fits:,}."
    )


_SIDE_BY_SIDE = (
    "account", "weights GiB", "KV GiB", "KV tokens", "full requests", "while they decode", "longest context",
)  # fmt: skip


def _side_by_side(page_of: MemoryPage) -> Block:
    """A row for each account, also for one that does not start."""
    rows: list[tuple[str, ...]] = []
    for name, plan in page_of.plans.items():
        fit = plan.fit_of(plan.max_model_len)
        rows.append(
            (
                name,
                f"{plan.weight_bytes / GIB:.2f}",
                f"{plan.kv_budget_bytes / GIB:.2f}",
                f"{plan.kv_budget_tokens:,}",
                f"{plan.max_concurrency:.2f} of {plan.max_model_len:,}",
                f"{fit.requests:,}",
                f"{plan.longest_that_fits:,}",
            )
        )
    rows += [(name, "does not start", *[""] * 5) for name in page_of.refused]
    return text_table(_SIDE_BY_SIDE, rows)


def _told_of(page_of: MemoryPage) -> Iterator[str]:
    """Warnings of the accounts, with the account's name where there are several."""
    for name, plan in page_of.plans.items():
        for one in plan.all_warnings:
            yield one if len(page_of.plans) == 1 else f"{name}: {one}"


def _fits_table(plan: MemoryPlan) -> Block:
    header = ["tokens of each request", "requests at once", "limited by"]
    rows = [[f"{one.tokens:,}", f"{one.requests:,}", one.limited_by] for one in plan.fits()]
    if plan.lets_go:
        header[1] = "requests at once while they decode"
        header.append("vLLM's own maximum concurrency")
        for row, one in zip(rows, plan.fits(), strict=True):
            row.append(f"{one.max_concurrency:.2f}")
    return text_table(tuple(header), rows)


def _plan_blocks(plan: MemoryPlan, notes: tuple[str, ...]) -> list[Block]:
    told_of = [(line.label, line.num_bytes, f"{line.formula} [{line.basis}]") for line in plan.lines]
    told_of.append(("= KV cache", plan.kv_budget_bytes, plan.kv_budget_formula))
    rows = [(label, f"{size / GIB:.2f}", f"{size / 1e9:.2f}", formula) for label, size, formula in told_of]
    table = text_table(("line", "GiB", "GB", "formula"), rows)
    told: list[Block] = [Bullets(items=(*notes, *plan.notes))] if notes or plan.notes else []
    return [table, *told, Code(text=render_memory(plan), summary="As the terminal prints it")]


_LOG_HEADER = (
    "what",
    "the log",
    "ours",
    "ours less the log",
    "where it most likely comes from",
    "line",
    "as printed",
)


def _log_blocks(beside: LogBeside) -> list[Block]:
    rows = [(row.label, *_cells(row), row.why or row.ranks, _lines(row), row.text) for row in beside.rows]
    settings = [(one.name, _value(one.value), one.said_by) for one in beside.settings]
    blocks: list[Block] = [text_table(_LOG_HEADER, rows)]
    if beside.notes:
        blocks.append(Bullets(items=beside.notes))
    return [*blocks, text_table(("setting", "value", "said by"), settings)]
