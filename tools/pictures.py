"""The pictures of the documentation and the gallery: a figure of a shipped scenario's report each, of 40 KB.

``python -m tools.pictures`` draws all of them anew, ``python -m tools.pictures NAME ...`` some: a technique,
a scenario of the gallery, or ``report``, which is README's, the beginning of a report. It needs Chromium, so
they are committed, and no test compares their bytes: fonts differ from machine to machine.
``--keys SCENARIO`` prints the figures of its report.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.blocks import Report, Section
from sim.report.figures import Picture
from sim.report.html import page, picture_html, render_html
from sim.scenario.shipped import scenario_name, scenario_paths
from tests.browser.chromium import browser, find_chromium

DOCS = Path(__file__).parent.parent / "docs"
MAX_BYTES = 40_000
QUALITIES = (90, 75, 60, 45, 35)  # of WebP: the first that is small enough


@dataclass(frozen=True, slots=True)
class Drawn:
    """Which figure of which scenario's report."""

    scenario: str
    key: str


# By the name of their page under docs/techniques.
PICTURES: Mapping[str, Drawn] = {
    "paged_kv": Drawn("serving/paged_vs_contiguous_opt13b", "kv_budget"),
    "continuous_batching": Drawn("serving/static_vs_continuous", "ttft_by_arrival"),
    "prefix_caching": Drawn("serving/prefix_caching", "cdf_ttft_s"),
    "speculative_decoding": Drawn("serving/speculative_decoding", "cdf_tpot_s"),
    "grouped_query_attention": Drawn("serving/gqa_vs_mha", "operators"),
    "quantisation": Drawn("serving/quantization_fp8", "cdf_tpot_s"),
    "chunked_prefill": Drawn("serving/prefill_order", "cdf_tpot_s"),
    "tensor_parallelism": Drawn("serving/tensor_parallel_70b", "operators"),
    "pipeline_parallelism": Drawn("serving/pipeline_parallel_70b", "cdf_e2e_s"),
    "host_time": Drawn("serving/host_time", "cdf_tpot_s"),
    "flash_attention": Drawn("kernel/standard_vs_flash", "hbm_traffic"),
    "waves": Drawn("kernel/wave_quantisation", "sram_fill"),
    "kernel_fusion": Drawn("kernel/fused_norm", "hbm_traffic"),
    "synchronisation": Drawn("training/one_slow_gpu", "step-split"),
    "all_reduce": Drawn("training/ring_step_by_step", "ring-links-0"),
    "overlap": Drawn("training/bucket_size", "step-split"),
    "backup_workers": Drawn("training/backup_workers", "step-split"),
    "staleness": Drawn("training/staleness_and_loss", "loss-seconds"),
    "local_sgd": Drawn("training/local_sgd", "loss-seconds"),
    "activation_checkpointing": Drawn("training/checkpointing_batch", "memory-0"),
    "checkpoints": Drawn("training/checkpoint_interval", "lost-time"),
    "sequence_packing": Drawn("training/sequence_packing", "step-split"),
    "zero": Drawn("training/zero_stages", "memory-0"),
    "lora": Drawn("training/lora_qlora", "memory-0"),
}
# What the gallery shows of a scenario that is no technique's; of one that is not named here, its report's
# first figure.
FIGURES: Mapping[str, str] = {
    "kernel/attention_on_gpt2": "speedup_by_length",
    "kernel/block_size": "hbm_traffic",
    "kernel/fp8_attention": "roofline",
    "kernel/gqa_decode": "hbm_traffic",
    "kernel/hbm3e": "roofline",
    "kernel/int4_gemm": "roofline",
    "kernel/memory_at_4k": "hbm_traffic",
    "kernel/speedup_by_length": "speedup_by_length",
    "kernel/sram_size": "time_by_sram",
    "kernel/tiles_over_time": "tiles_0",
    "serving/azure_conversation": "load_0",
    "serving/closed_loop": "cdf_tpot_s",
    "serving/flash_vs_standard": "operators",
    "serving/kv_cache_off": "operators",
    "serving/multi_turn_sessions": "ttft_by_arrival",
    "serving/prefix_cache_size": "load_0",
    "serving/timeouts_overload": "load_0",
    "training/scaling_1024": "scaling-rate",
}
NO_BUTTONS = ".modebar-container { display: none !important }"
REPORT = "report"
OF_REPORT = ("serving/static_vs_continuous", ("ttft_by_arrival",))


def report(scenario: str) -> Report:
    """The report that ``gpuyard run`` writes."""
    return report_of(run_scenario(load_scenario(scenario)))


def figures(of: Report) -> dict[str, Picture]:
    """Its figures, by key."""
    return {picture.key: picture for section in of.sections for picture in section.pictures}


def beginning(of: Report, keys: Sequence[str]) -> str:
    """The page of a report that has only the question, the answer and these figures."""
    shown = tuple(figures(of)[key] for key in keys)
    html = render_html(replace(of, sections=(Section(title="", pictures=shown),)))
    return html.replace("</style>", NO_BUTTONS + "</style>", 1)


def alone(picture: Picture) -> str:
    """The page of one figure."""
    html = page(title="", body=picture_html(picture), pictures=[picture])
    return html.replace("</style>", NO_BUTTONS + "</style>", 1)


def shot(html: str, element: str, width_px: int, binary: str) -> bytes:
    """An element of a page as a reader with a light screen sees it, as WebP."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "picture.html"
        file.write_text(html, encoding="utf-8")
        with browser(binary, Path(name) / "profile") as tab:
            tab.look(width_px)
            tab.open(file)
            tab.wait_for("document.documentElement.dataset.drawn === 'light'")
            box = f"document.querySelector('{element}').getBoundingClientRect()"
            clip = {side: tab.value(f"{box}.{side}") for side in ("x", "y", "width", "height")} | {"scale": 1}
            for quality in QUALITIES:
                taken = tab.send(
                    "Page.captureScreenshot",
                    clip=clip,
                    captureBeyondViewport=True,
                    format="webp",
                    quality=quality,
                )
                image = base64.b64decode(taken["data"])
                if len(image) <= MAX_BYTES:
                    return image
    raise SystemExit(f"{len(image):,} bytes, at most {MAX_BYTES:,}")


def names() -> dict[str, str]:
    """Every picture but ``report`` by its name, with its scenario: a technique's, or the scenario's own."""
    shown = {drawn.scenario for drawn in PICTURES.values()}
    others = (scenario_name(path) for path in scenario_paths())
    return {name: drawn.scenario for name, drawn in PICTURES.items()} | {
        scenario.partition("/")[2]: scenario for scenario in others if scenario not in shown
    }


def gallery_picture(scenario: str) -> Path:
    """The file of a scenario's picture."""
    (name,) = (name for name, of in names().items() if of == scenario)
    return DOCS / "pictures" / f"{name}.webp"


def draw_for_gallery(scenario: str, of: Report) -> None:
    """Draw a scenario's picture anew."""
    file, known = gallery_picture(scenario), figures(of)
    key = PICTURES[file.stem].key if file.stem in PICTURES else FIGURES.get(scenario, next(iter(known)))
    if key not in known:
        raise SystemExit(f"{scenario} has no figure {key!r}; it has {', '.join(known)}")
    file.write_bytes(shot(alone(known[key]), ".plot", 720, chromium()))


def draw(name: str) -> None:
    """Draw one picture anew."""
    if name != REPORT:
        scenario = names()[name]
        draw_for_gallery(scenario, report(scenario))
        return
    scenario, keys = OF_REPORT
    image = shot(beginning(report(scenario), keys), "main", 720, chromium())
    (DOCS / f"{name}.webp").write_bytes(image)


def chromium() -> str:
    """The browser that draws."""
    found = find_chromium()
    if found is None:
        sys.exit("no Chromium on this machine: pictures are drawn with it")
    return found


def main() -> int:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; default: all")
    parser.add_argument("--keys", metavar="SCENARIO", help="print a report's figures, and draw nothing")
    arguments = parser.parse_args()
    if arguments.keys:
        for key, picture in figures(report(arguments.keys)).items():
            print(f"{key}: {picture.title}")
        return 0
    known = [REPORT, *names()]
    unknown = set(arguments.names) - set(known)
    if unknown:
        sys.exit(f"no such picture: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in arguments.names or known:
        draw(name)
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
