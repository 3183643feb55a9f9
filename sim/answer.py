"""All runs of a scenario file with their statistics: what the reports, the command and a notebook read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sim.comparison import Comparison
from sim.scenario_file import AnyScenario, ScenarioFile, ScenarioT_co
from sim.summary import Summary


class AnyRun(Protocol):
    """What runs of all kinds leave behind, beside the columns of their own."""

    @property
    def scenario(self) -> AnyScenario:
        """What was run."""

    @property
    def variant(self) -> str:
        """Its name among those compared."""

    @property
    def seed(self) -> int:
        """Of the random streams."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about the run."""


RunT_co = TypeVar("RunT_co", bound=AnyRun, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[ScenarioT_co, RunT_co]):
    """All runs of a scenario file, their statistics and the comparison to the reference."""

    file: ScenarioFile[ScenarioT_co]
    results: Mapping[str, Sequence[RunT_co]]  # by variant, one per seed
    summaries: Mapping[str, Sequence[Summary]]
    comparison: Comparison


AnyAnswer = Answer[AnyScenario, AnyRun]
