"""The kinds of scenario, and where each one's parts are: all that the common line asks of a kind.

Loading, running, comparing, reporting and sweeping are the same for every kind. What differs stands in
``KINDS`` as ``"module:name"``, imported when it is first used: a run loads its own kind and no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sim.suggest import did_you_mean

if TYPE_CHECKING:
    from sim.metric_table import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The parts of one kind, each ``"module:name"``, with what it is called with."""

    scenario: str  # the frozen dataclass that a file becomes
    check: str  # (scenario, *, file): refuses what does not go together
    run_one: str  # (scenario, *, variant, seed, base_dir, record_block_map) -> what the run left behind
    summarize: str  # (result, *, keep_thin_percentiles) -> sim.summary.Summary
    metrics: str  # mapping of names to sim.metric_table.Metric, in the order in which they are shown
    headline: str  # (comparison) -> the metric that answers
    table: str  # names of the decision table's metrics, after the headline
    num_gpus: str  # (scenario) -> GPUs that a point pays for
    records: str  # a run's tables by name: (result) -> columns of sim.export.records
    report: str  # (answer) -> sim.report.blocks.Report
    trace_events: str  # (result) -> a Perfetto trace
    takes_trace: bool = False  # --trace replaces its workload
    has_devices: bool = False  # a list ``devices`` whose items name hardware

    def part(self, name: str) -> Any:
        """The object that a field of this kind names."""
        return imported(getattr(self, name))


KINDS: Mapping[str, Kind] = {
    "serving": Kind(
        scenario="sim.scenario:Scenario",
        check="sim.checks:check_serving",
        run_one="sim.serving.run:run_serving",
        summarize="sim.metrics:summarize",
        metrics="sim.metric_table:METRICS",
        headline="sim.answer_line:serving_headline",
        table="sim.answer_line:SERVING_TABLE",
        num_gpus="sim.serving.run:num_gpus",
        records="sim.export.records:RECORD_TABLES",
        report="sim.report.content:build_report",
        trace_events="sim.report.perfetto:trace_events",
        takes_trace=True,
    ),
    "kernel": Kind(
        scenario="sim.kernel.scenario:KernelScenario",
        check="sim.kernel.checks:check_kernel",
        run_one="sim.kernel.run:run_kernel",
        summarize="sim.kernel.metrics:summarize_kernel",
        metrics="sim.kernel.metrics:KERNEL_METRICS",
        headline="sim.kernel.metrics:kernel_headline",
        table="sim.kernel.metrics:KERNEL_TABLE",
        num_gpus="sim.kernel.run:num_gpus",
        records="sim.kernel.tables:KERNEL_TABLES",
        report="sim.kernel.report.page:build_kernel_report",
        trace_events="sim.kernel.trace:kernel_trace_events",
    ),
    "training": Kind(
        scenario="sim.training.scenario:TrainingScenario",
        check="sim.training.scenario_checks:check_training",
        run_one="sim.training.run:run_training",
        summarize="sim.training.summary:summarize",
        metrics="sim.training.summary_metrics:TRAINING_METRICS",
        headline="sim.training.summary_metrics:headline",
        table="sim.training.summary_metrics:TABLE",
        num_gpus="sim.training.scenario:num_gpus",
        records="sim.training.records_tables:RECORD_TABLES",
        report="sim.report.training:build_report",
        trace_events="sim.report.training_trace:trace_events",
        has_devices=True,
    ),
}


def kind_of(scenario: Any) -> Kind:
    """The kind of a loaded scenario."""
    return KINDS[scenario.kind]


@cache
def imported(where: str) -> Any:
    """The object at ``"module:name"``."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def every_metric() -> Mapping[str, Metric]:
    """The metrics of all kinds; a name that two kinds share means the first one's."""
    found: dict[str, Metric] = {}
    for kind in reversed(tuple(KINDS.values())):
        found |= kind.part("metrics")
    return found


def metric_of(name: str) -> Metric:
    """The metric of that name."""
    return every_metric()[name]


def unknown_kind(given: object) -> str:
    """What is wrong with a ``kind:`` that is none."""
    return f"unknown kind{did_you_mean(given, KINDS)}"
