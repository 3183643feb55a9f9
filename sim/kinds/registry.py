"""The kinds of scenario: all that loading, running, comparing, reporting and sweeping ask of each.

Those are the same for every kind; what differs is a method here. A part is imported when it is first used: a
run loads its own kind and no other, and the command's help loads none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from sim.scenario.not_modelled import unknown_word

if TYPE_CHECKING:
    from sim.arrays import Column
    from sim.kernel.run import KernelResult
    from sim.kernel.scenario import KernelScenario
    from sim.report.blocks import Report
    from sim.results.answer import Answer, AnyAnswer, AnyRun
    from sim.results.comparison import ChosenLength, Comparison
    from sim.results.metric import Metric, Swept
    from sim.results.summary import Summary
    from sim.scenario.file import AnyScenario
    from sim.scenario.variants import Choices
    from sim.serving.records import RunResult
    from sim.serving.scenario import Scenario
    from sim.training.records import TrainingResult
    from sim.training.scenario import TrainingScenario

S = TypeVar("S", bound="AnyScenario")
R = TypeVar("R", bound="AnyRun")
SHORT = 3000  # requests that surely take no more than a second or two, drafts included


class Kind(ABC, Generic[S, R]):
    """One kind of scenario ``S``, whose runs leave an ``R`` behind."""

    name: str
    takes_trace = False  # --trace replaces its workload
    can_draw = True  # another seed may give other numbers
    has_devices = False  # a list ``devices`` whose items name hardware

    @property
    @abstractmethod
    def scenario(self) -> type[S]:
        """The frozen dataclass that a file becomes."""

    @property
    def choices(self) -> Choices:
        """Fields whose choices understand keys of their own, which leave with them."""
        return {}

    def completed(self, tree: Mapping[str, Any], *, file: str) -> Mapping[str, Any]:
        """The file's mapping with the defaults that depend on other keys."""
        return tree

    @abstractmethod
    def check(self, scenario: S, *, file: str) -> None:
        """Refuse what does not go together."""

    def read_files(self, scenarios: Sequence[S], base_dir: Path) -> None:
        """Read what the variants of a file name beside it, with the readers' own refusals; nothing is run."""
        return

    def load_run(self) -> None:
        """Import what a run needs: once, before processes are forked to make runs."""
        _ = self.metrics

    def is_short(self, scenario: S) -> bool:
        """Whether a run surely takes no more than a second or two, by its size."""
        return False

    @abstractmethod
    def run_one(self, scenario: S, *, variant: str, seed: int, base_dir: Path, record_block_map: bool) -> R:
        """Simulate one variant with one seed."""

    def draws(self, scenario: S) -> bool:
        """Whether another seed gives other numbers, so that one seed alone has no interval."""
        return self.can_draw

    @abstractmethod
    def summarize(self, result: R, *, keep_thin_percentiles: bool = False) -> Summary:
        """The statistics of a run."""

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Its metrics by name, in the order in which they are shown."""

    @abstractmethod
    def headline(self, comparison: Comparison) -> str:
        """The metric that answers."""

    @property
    def deciders(self) -> Sequence[Sequence[str]]:
        """What decides beside the headline, if anything: of each group the first metric that has a number."""
        return ()

    @property
    @abstractmethod
    def table(self) -> Sequence[str]:
        """The decision table's metrics, after the headline."""

    @property
    def swept(self) -> Swept:
        """How a sweep is read: its columns, what is looked for, which keys are load."""
        from sim.results.metric import Swept

        first = (*self.table, *self.metrics)[:1]
        return Swept(columns=self.table, goals=first, against=first)

    @abstractmethod
    def num_gpus(self, scenario: S) -> int:
        """GPUs that a point of a sweep pays for."""

    def slo_limits(self, scenario: S) -> Mapping[str, float]:
        """The times that an SLO limits, by metric, and their limits."""
        return {}

    def alone_ratios(self, result: R, summary: Summary) -> Mapping[str, float]:
        """The same of one request alone on an idle engine: no number of engines can be faster."""
        return {}

    @property
    def not_modelled(self) -> Sequence[str]:
        """What no run of this kind knows of, as its reports end with."""
        return ()

    def chosen_length(self, scenario: S) -> ChosenLength | None:
        """How its length follows from a precision; None where length plays no part."""
        return None

    @property
    @abstractmethod
    def record_tables(self) -> Mapping[str, Callable[[R], Sequence[Column]]]:
        """A run's tables by the name of their file."""

    @abstractmethod
    def report(self, answer: Answer[S, R]) -> Report:
        """The report's blocks and pictures."""

    @abstractmethod
    def trace_events(self, result: R) -> Mapping[str, Any]:
        """A Perfetto trace."""


class Serving(Kind["Scenario", "RunResult"]):
    """Requests through an engine on one or many replicas."""

    name = "serving"
    takes_trace = True

    @property
    def scenario(self) -> type[Scenario]:
        import sim.serving.batching.registry
        import sim.serving.metrics  # noqa: F401  both announce the choices of the scenario's fields
        from sim.serving.scenario import Scenario

        return Scenario

    @property
    def choices(self) -> Choices:
        import sim.serving.batching.registry  # noqa: F401  as above
        from sim.serving.scenario import ENGINE_CHOICES

        return ENGINE_CHOICES

    def completed(self, tree: Mapping[str, Any], *, file: str) -> Mapping[str, Any]:
        from sim.hardware.engine_profile import with_engine_defaults

        return with_engine_defaults(tree, file=file)

    def check(self, scenario: Scenario, *, file: str) -> None:
        from sim.serving.checks.scenario import check_serving

        check_serving(scenario, file=file)

    def read_files(self, scenarios: Sequence[Scenario], base_dir: Path) -> None:
        from sim.serving.workload.sources import read_workloads

        read_workloads([scenario.workload for scenario in scenarios], base_dir)

    def load_run(self) -> None:
        import sim.serving.run
        import sim.serving.summary  # noqa: F401

    def is_short(self, scenario: Scenario) -> bool:
        workload, is_skipped = scenario.workload, scenario.engine.stepping == "skip"
        return is_skipped and workload.trace is None and (workload.num_requests or SHORT) < SHORT

    def run_one(
        self, scenario: Scenario, *, variant: str, seed: int, base_dir: Path, record_block_map: bool
    ) -> RunResult:
        from sim.serving.run import run_serving

        return run_serving(
            scenario, variant=variant, seed=seed, base_dir=base_dir, record_block_map=record_block_map
        )

    def draws(self, scenario: Scenario) -> bool:
        from sim.serving.workload.sources import draws

        return draws(scenario)

    def summarize(self, result: RunResult, *, keep_thin_percentiles: bool = False) -> Summary:
        from sim.serving.summary import summarize

        return summarize(result, keep_thin_percentiles=keep_thin_percentiles)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        from sim.serving.metrics import METRICS

        return METRICS

    def headline(self, comparison: Comparison) -> str:
        from sim.serving.metrics import serving_headline

        return serving_headline(comparison)

    @property
    def deciders(self) -> Sequence[Sequence[str]]:
        from sim.serving.metrics import SERVING_DECIDERS

        return SERVING_DECIDERS

    @property
    def table(self) -> Sequence[str]:
        from sim.serving.metrics import serving_table

        return serving_table()

    @property
    def swept(self) -> Swept:
        from sim.serving.metrics import SWEPT

        return SWEPT

    def num_gpus(self, scenario: Scenario) -> int:
        from sim.serving.scenario import num_gpus

        return num_gpus(scenario)

    def slo_limits(self, scenario: Scenario) -> Mapping[str, float]:
        return scenario.slo.time_limits

    def alone_ratios(self, result: RunResult, summary: Summary) -> Mapping[str, float]:
        from sim.serving.record_statistics import alone_ratios

        return alone_ratios(result, result.scenario.slo.known_limits(summary.metrics))

    @property
    def not_modelled(self) -> Sequence[str]:
        from sim.serving.report.content import NOT_MODELLED

        return NOT_MODELLED

    def chosen_length(self, scenario: Scenario) -> ChosenLength | None:
        from sim.serving.metrics import chosen_length

        return chosen_length(scenario)

    @property
    def record_tables(self) -> Mapping[str, Callable[[RunResult], Sequence[Column]]]:
        from sim.serving.tables import RECORD_TABLES

        return RECORD_TABLES

    def report(self, answer: Answer[Scenario, RunResult]) -> Report:
        from sim.serving.report.content import build_report

        return build_report(answer)

    def trace_events(self, result: RunResult) -> Mapping[str, Any]:
        from sim.serving.trace import trace_events

        return trace_events(result)


class Kernel(Kind["KernelScenario", "KernelResult"]):
    """Thread blocks on the SMs of one GPU."""

    name = "kernel"
    can_draw = False

    @property
    def scenario(self) -> type[KernelScenario]:
        from sim.kernel.scenario import KernelScenario

        return KernelScenario

    def check(self, scenario: KernelScenario, *, file: str) -> None:
        from sim.kernel.checks import check_kernel

        check_kernel(scenario, file=file)

    def load_run(self) -> None:
        import sim.kernel.metrics
        import sim.kernel.run  # noqa: F401

    def run_one(
        self, scenario: KernelScenario, *, variant: str, seed: int, base_dir: Path, record_block_map: bool
    ) -> KernelResult:
        from sim.kernel.run import run_kernel

        return run_kernel(
            scenario, variant=variant, seed=seed, base_dir=base_dir, record_block_map=record_block_map
        )

    def summarize(self, result: KernelResult, *, keep_thin_percentiles: bool = False) -> Summary:
        from sim.kernel.metrics import summarize_kernel

        return summarize_kernel(result, keep_thin_percentiles=keep_thin_percentiles)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        from sim.kernel.metrics import KERNEL_METRICS

        return KERNEL_METRICS

    def headline(self, comparison: Comparison) -> str:
        from sim.kernel.metrics import kernel_headline

        return kernel_headline(comparison)

    @property
    def deciders(self) -> Sequence[Sequence[str]]:
        from sim.kernel.metrics import KERNEL_DECIDERS

        return KERNEL_DECIDERS

    @property
    def table(self) -> Sequence[str]:
        from sim.kernel.metrics import KERNEL_TABLE

        return KERNEL_TABLE

    @property
    def swept(self) -> Swept:
        from sim.kernel.metrics import SWEPT

        return SWEPT

    def num_gpus(self, scenario: KernelScenario) -> int:
        from sim.kernel.run import num_gpus

        return num_gpus(scenario)

    @property
    def not_modelled(self) -> Sequence[str]:
        from sim.kernel.report.page import NOT_MODELLED

        return NOT_MODELLED

    @property
    def record_tables(self) -> Mapping[str, Callable[[KernelResult], Sequence[Column]]]:
        from sim.kernel.tables import KERNEL_TABLES

        return KERNEL_TABLES

    def report(self, answer: Answer[KernelScenario, KernelResult]) -> Report:
        from sim.kernel.report.page import build_kernel_report

        return build_kernel_report(answer)

    def trace_events(self, result: KernelResult) -> Mapping[str, Any]:
        from sim.kernel.tables import kernel_trace_events

        return kernel_trace_events(result)


class Training(Kind["TrainingScenario", "TrainingResult"]):
    """Data-parallel workers and their exchange."""

    name = "training"
    has_devices = True

    @property
    def scenario(self) -> type[TrainingScenario]:
        from sim.training.scenario import TrainingScenario

        return TrainingScenario

    def check(self, scenario: TrainingScenario, *, file: str) -> None:
        from sim.training.checks import check_training

        check_training(scenario, file=file)

    def load_run(self) -> None:
        import sim.training.metrics
        import sim.training.run  # noqa: F401

    def is_short(self, scenario: TrainingScenario) -> bool:
        job, scaling = scenario.training, scenario.scaling
        steps = job.num_workers * job.num_steps
        if scaling is not None:
            steps += sum(scaling.num_workers) * scaling.num_steps
        return steps < 20 * SHORT and scenario.learning is None and job.stepping == "skip"

    def run_one(
        self, scenario: TrainingScenario, *, variant: str, seed: int, base_dir: Path, record_block_map: bool
    ) -> TrainingResult:
        from sim.training.run import run_training

        return run_training(
            scenario, variant=variant, seed=seed, base_dir=base_dir, record_block_map=record_block_map
        )

    def draws(self, scenario: TrainingScenario) -> bool:
        from sim.training.scenario import draws

        return draws(scenario)

    def summarize(self, result: TrainingResult, *, keep_thin_percentiles: bool = False) -> Summary:
        from sim.training.metrics import summarize

        return summarize(result, keep_thin_percentiles=keep_thin_percentiles)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        from sim.training.metrics import TRAINING_METRICS

        return TRAINING_METRICS

    def headline(self, comparison: Comparison) -> str:
        from sim.training.metrics import headline

        return headline(comparison)

    @property
    def deciders(self) -> Sequence[Sequence[str]]:
        from sim.training.metrics import DECIDERS

        return DECIDERS

    @property
    def table(self) -> Sequence[str]:
        from sim.training.metrics import TABLE

        return TABLE

    @property
    def swept(self) -> Swept:
        from sim.training.metrics import SWEPT

        return SWEPT

    def num_gpus(self, scenario: TrainingScenario) -> int:
        from sim.training.scenario import num_gpus

        return num_gpus(scenario)

    def chosen_length(self, scenario: TrainingScenario) -> ChosenLength | None:
        from sim.training.scenario import chosen_length

        return chosen_length(scenario, self.headline)

    @property
    def record_tables(self) -> Mapping[str, Callable[[TrainingResult], Sequence[Column]]]:
        from sim.training.tables import RECORD_TABLES

        return RECORD_TABLES

    def report(self, answer: Answer[TrainingScenario, TrainingResult]) -> Report:
        from sim.training.report.page import build_report

        return build_report(answer)

    def trace_events(self, result: TrainingResult) -> Mapping[str, Any]:
        from sim.training.tables import trace_events

        return trace_events(result)


if TYPE_CHECKING:
    AnyKind = Kind[AnyScenario, AnyRun]

# Each kind is only ever given scenarios and runs of its own, which a mapping of all kinds cannot say.
KINDS: Mapping[str, AnyKind] = {
    kind.name: cast("AnyKind", kind) for kind in (Serving(), Kernel(), Training())
}


def kind_of(scenario: AnyScenario) -> AnyKind:
    """The kind of a loaded scenario."""
    return KINDS[scenario.kind]


def report_of(answer: AnyAnswer) -> Report:
    """The report of an answered scenario, as its kind has it."""
    return kind_of(answer.file.base).report(answer)


def unknown_kind(given: object) -> str:
    """What is wrong with a ``kind:`` that is none."""
    return unknown_word("kind", given, KINDS)
