"""A loaded scenario file of whatever kind: its variants, its measured values, its tree written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import Distribution
from sim.scenario.fields import Threshold, key

if TYPE_CHECKING:
    from sim.errors import ScenarioError
    from sim.scenario.caution import Caution
    from sim.scenario.place import Place
    from sim.scenario.variants import Override


class AnyDevice(Protocol):
    """What is asked of a device where the kind does not matter."""

    @property
    def name(self) -> str:
        """Its profile's."""

    @property
    def usd_per_hour(self) -> float | None:
        """What one costs to rent; None: not known."""


class AnyScenario(Protocol):
    """What scenarios of all kinds have: enough to load, run and compare them. Each is a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def question(self) -> str:
        """What the report answers."""

    @property
    def kind(self) -> str:
        """Its name in ``KINDS``."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """One run per seed and variant."""

    @property
    def hardware(self) -> AnyDevice:
        """The device."""

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """Bounds that make exit code 1."""


ScenarioT_co = TypeVar("ScenarioT_co", bound=AnyScenario, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measured value, in the metric's base unit. With ``over`` it is a ratio of two variants."""

    metric: str = key("a metric of the run, e.g. mean_tpot_s")
    value: float = key("what was measured: in the metric's base unit, or with its unit as text", gt=0)
    unit: str | None = key("unit of a bare value, e.g. ms; default: the metric's base unit", default=None)
    source: str = key("where the figure stands")
    group: str = key("values that are scored together", default="all")
    tolerance: float | None = key("relative uncertainty of the measurement, where known", default=None, gt=0)
    at_least: float | None = key("a band instead of a point: the lowest prediction that counts", default=None)
    at_most: float | None = key("a band instead of a point: the highest prediction that counts", default=None)
    seen_by_fit: bool = key("a constant was fitted on it: calibrated, not validated", default=False)
    rivals: Mapping[str, float] | None = key(
        "relative error of other simulators on this value, by name", default=None
    )
    variant: str | None = key("of which variant of compare; default: the reference", default=None)
    over: str | None = key("divided by the same metric of this variant", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """Measured values at one setting of the scenario. ``label`` names the setting within its file."""

    label: str
    overrides: tuple[Override, ...]
    values: tuple[Measured, ...]
    place: Place


CANNOT_RUN = "CANNOT_RUN"
"""In the place of a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a variant, or a point of a sweep, cannot run, and what to try instead."""

    reason: str
    remedy: str = ""
    short: str = ""  # the reason as a sentence has it: without key path and sizes

    @classmethod
    def of(cls, error: ScenarioError, variant: str) -> Refusal:
        """The error on one line, without file and variant: who prints it says which one it is."""
        problem = error.problem.removesuffix(f" (in variant {variant})")
        what = "; ".join(" ".join(line.split()) for line in problem.splitlines())
        bound = f" (given {error.given}, allowed {error.allowed})" if _is_telling(error) else ""
        path = error.path.removeprefix(f"compare.variants.{variant}.")
        return cls(
            reason=f"{path}: {what}{bound}" if path else what,
            remedy=error.hint,
            short=problem.partition("\n")[0],
        )

    def __str__(self) -> str:
        return f"{self.reason}{f'; try {self.remedy}' if self.remedy else ''}"


def _is_telling(error: ScenarioError) -> bool:
    """Whether what was given is a size against a bound: a list of words would only be long."""
    return error.allowed.startswith("at most") and error.given is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant(Generic[ScenarioT_co]):
    """One named set of differences from the file, already applied and checked."""

    name: str
    differences: Mapping[str, Any]
    scenario: ScenarioT_co
    refusal: Refusal | None = None  # it was read without a fault, and cannot run


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioFile(Generic[ScenarioT_co]):
    """A loaded file: the base scenario and its variants (one, named ``base``, without ``compare``)."""

    path: str
    base: ScenarioT_co
    reference: str
    variants: tuple[Variant[ScenarioT_co], ...]  # but for those that cannot run
    raw: Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    measured: tuple[MeasuredPoint, ...] = ()  # no part of the question
    warnings: tuple[Caution, ...] = ()  # of words that were renamed
    trace: str | None = None  # given in place of the scenario's
    reached: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by override, where not all take it
    refused: tuple[Variant[ScenarioT_co], ...] = ()  # those that cannot run

    @property
    def changes(self) -> tuple[str, ...]:
        """What was asked otherwise than in the file."""
        given = changes_of(self.overrides, self.trace)
        told = [f"{text}{_where(self.reached[text])}" if text in self.reached else text for text in given]
        same = [f"{one} is the same as {other}" for one, other in self._became_equal]
        if told and same:
            told[-1] += f", so that {' and '.join(same)}"
        return tuple(told)

    @property
    def _became_equal(self) -> list[tuple[str, str]]:
        """Variants that a change which did not reach all made into another one: their names then lie."""
        taking = {name for names in self.reached.values() for name in names}
        pairs = combinations(sorted(self.variants, key=lambda one: one.name not in taking), 2)
        return (
            [(one.name, other.name) for one, other in pairs if one.scenario == other.scenario]
            if taking
            else []
        )


def _where(names: Sequence[str]) -> str:
    """Which variants a change reached."""
    which = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f" (in {which} only; the others set their own)"


def asked(question: str, changes: Sequence[str]) -> str:
    """The question; with changes it is no longer quite the file's, and says so."""
    return f"Asked of: {question} Changed: {', '.join(changes)}" if changes else question


def changes_of(overrides: Sequence[str], trace: str | None) -> tuple[str, ...]:
    """What was asked otherwise than in the file; more seeds, or bounds of one's own, ask the same."""
    same = ("seeds=", "thresholds")
    given = (text for text in overrides if not text.startswith(same))
    return (*given, *((f"trace={trace}",) if trace else ()))


def to_raw(file: ScenarioFile[AnyScenario]) -> dict[str, Any]:
    """The question as understood: a tree that loads to the same scenario again.

    Hardware and model stand as they were given (a name, or differences from one). Optional keys
    that were not given are left out; all others show their value.
    """
    tree: dict[str, Any] = {}
    for one in fields(file.base):
        if one.name in ("hardware", "model", "devices"):
            tree[one.name] = file.raw.get(one.name, {})
        else:
            tree[one.name] = plain(getattr(file.base, one.name))
    if "compare" in file.raw:
        variants = {one.name: plain(one.differences) for one in (*file.variants, *file.refused)}
        tree["compare"] = {"reference": file.reference, "variants": variants}
    return {name: value for name, value in tree.items() if value not in ({}, [])}


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as dicts and lists, what is None left out."""
    if is_dataclass(value):
        given = {one.name: getattr(value, one.name) for one in fields(value)}
        return {name: plain(item) for name, item in given.items() if item is not None}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def has_drawn_values(content: object) -> bool:
    """Whether any distribution in a scenario, or in a part of one, gives more than a single value.

    Without, another seed gives the same numbers.
    """
    if isinstance(content, Distribution):
        return content.distribution != "fixed"
    if isinstance(content, Mapping):
        return any(has_drawn_values(one) for one in content.values())
    if isinstance(content, tuple):
        return any(has_drawn_values(one) for one in content)
    if is_dataclass(content):
        return any(has_drawn_values(getattr(content, one.name)) for one in fields(content))
    return False


def scenario_word(path: str) -> str:
    """A shipped scenario's name, any other's path."""
    from sim.scenario.shipped import scenario_name, scenario_paths

    given = Path(path).resolve()
    alike = (one for one in scenario_paths() if one.name == given.name)
    return next((scenario_name(one) for one in alike if one.resolve() == given), path)
