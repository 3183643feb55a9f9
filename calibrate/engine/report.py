"""What ``engine parity`` writes: a table of runs, the rows behind it, and one page of parity plots."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from calibrate.engine.parity import ASKED, RunParity
from calibrate.fit.report import STYLE, html_table
from calibrate.fit_report import scatter, scatter_layout, write_tables
from sim.hardware.engine_profile import EngineOverheads

HEAD = ("run", "role", "metric", "recorded", "simulated", "error", "asked", "met")
LABELS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MAX_STEPS = 1500


def rows_of(found: RunParity) -> list[tuple[str, ...]]:
    """Means of the three metrics, and the median error of single steps."""
    role = "fitted to (host times)" if found.is_development else "tuned nothing"
    rows = []
    for metric, most in ASKED.items():
        recorded, simulated = (float(one[metric].mean()) for one in (found.recorded_s, found.simulated_s))
        error = found.error(metric)
        met = "yes" if abs(error) <= most else "no"
        times = f"{recorded * 1e3:.2f} ms", f"{simulated * 1e3:.2f} ms"
        rows.append((found.name, role, f"mean {LABELS[metric]}", *times, f"{error:+.1%}", f"{most:.0%}", met))
    median, p90 = found.step_errors()
    steps = f"{len(found.step_recorded_s)} steps"
    return [
        *rows,
        (found.name, role, "single steps", steps, "", f"median {median:.1%}, p90 {p90:.1%}", "", ""),
    ]


def write_report(
    found: Sequence[RunParity], overheads: EngineOverheads, about: str, folder: Path
) -> list[Path]:
    """``engine_parity.html``, ``engine_runs.csv``, ``engine_requests.csv`` and ``engine_steps.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    requests = [
        (one.name, metric, index, f"{recorded:.6f}", f"{simulated:.6f}")
        for one in found
        for metric in ASKED
        for index, (recorded, simulated) in enumerate(
            zip(one.recorded_s[metric], one.simulated_s[metric], strict=True)
        )
    ]
    steps = [
        (one.name, index, f"{recorded:.6f}", f"{priced:.6f}")
        for one in found
        for index, (recorded, priced) in enumerate(zip(one.step_recorded_s, one.step_priced_s, strict=True))
    ]
    tables: dict[str, tuple[Sequence[str], Iterable[Sequence[object]]]] = {
        "engine_runs.csv": (HEAD, [row for one in found for row in rows_of(one)]),
        "engine_requests.csv": (("run", "metric", "request", "recorded_s", "simulated_s"), requests),
        "engine_steps.csv": (("run", "step", "recorded_s", "priced_s"), steps),
    }
    write_tables(folder, tables)
    page = folder / "engine_parity.html"
    page.write_text(page_of(found, overheads, about), encoding="utf-8")
    return [page, *(folder / name for name in tables)]


def page_of(found: Sequence[RunParity], overheads: EngineOverheads, about: str) -> str:
    """One self-contained page."""
    import plotly.io

    parts = ["<!doctype html><meta charset='utf-8'><title>The real engine and its simulation</title>"]
    parts += [f"<style>{STYLE}</style><h1>The real engine and its simulation</h1><p>{html.escape(about)}</p>"]
    host = (
        f"Host times: {overheads.step_s * 1e3:.3f} ms a step, "
        f"{overheads.per_sequence_s * 1e6:.1f} us a sequence, "
        f"{overheads.per_prompt_token_s * 1e6:.2f} us a prompt token, launches "
        f"{overheads.launch_per_layer_s * 1e6:.0f} us a layer; {overheads.source}."
    )
    parts.append(f"<p>{html.escape(host)}</p>")
    parts.append(html_table(HEAD, [row for one in found for row in rows_of(one)]))
    for index, metric in enumerate(("step_s", *ASKED)):
        parts.append(f"<h2>{LABELS.get(metric, 'Step')}</h2>")
        figure = figure_of(found, metric)
        parts.append(plotly.io.to_html(figure, full_html=False, include_plotlyjs=index == 0))
    return "\n".join(parts)


def figure_of(found: Sequence[RunParity], metric: str) -> dict[str, object]:
    """Simulated over recorded milliseconds, a colour per run."""
    import numpy as np

    pairs = []
    for one in found:
        x = one.step_recorded_s if metric == "step_s" else one.recorded_s[metric]
        y = one.step_priced_s if metric == "step_s" else one.simulated_s[metric]
        stride = max(1, len(x) // MAX_STEPS)
        pairs.append((one.name, x[::stride] * 1e3, y[::stride] * 1e3))
    traces = [
        scatter(x, y, name=name, symbol="circle", color=COLORS[index % len(COLORS)])
        for index, (name, x, y) in enumerate(pairs)
    ]
    ends = np.concatenate([x for _, x, _ in pairs])
    return {"data": traces, "layout": scatter_layout(ends, "recorded, ms", "simulated, ms")}
