"""Classes of requests, each with random streams of its own ("chat/output_tokens")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.errors import ScenarioError
from sim.rng import stream
from sim.scenario import Distribution, RequestClass, Workload
from sim.workload.distributions import Place, draw_tokens, draw_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of requests, or the workload itself where it has no classes."""

    name: str  # "" without classes
    request_class: RequestClass
    seed: int
    base_dir: Path

    def rng(self, name: str) -> np.random.Generator:
        """This class's own random stream ``name``."""
        return stream(self.seed, f"{self.name}/{name}" if self.name else name)

    def tokens(self, name: str, key_path: str, law: Distribution, count: int) -> Int64:
        """``count`` whole numbers of ``law`` from the stream ``name``."""
        return draw_tokens(law, count, self.rng(name), self._place(key_path))

    def durations_ps(self, name: str, key_path: str, law: Distribution, count: int) -> Int64:
        """``count`` times of ``law`` (seconds) in ps, from the stream ``name``."""
        return durations_ps(law, count, self.rng(name), self._place(key_path))

    def _place(self, key_path: str) -> Place:
        prefix = f"workload.classes.{self.name}" if self.name else "workload"
        return Place(path=f"{prefix}.{key_path}", base_dir=self.base_dir)


def durations_ps(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Int64:
    """``count`` times of ``law``, drawn in seconds, in ps."""
    seconds = draw_values(law, count, rng, place)
    if seconds.size and seconds.max() > 1e6:
        raise ScenarioError(
            "a pause of more than a million seconds",
            path=place.path,
            given=float(seconds.max()),
            hint="give the distribution a max",
        )
    return np.rint(seconds * PS_PER_S).astype(np.int64)


def kinds_of(workload: Workload, seed: int, base_dir: Path) -> tuple[Kind, ...]:
    """The workload's classes in the order of the file; one without a name where it has none."""
    if workload.classes:
        return tuple(
            Kind(name=name, request_class=one, seed=seed, base_dir=base_dir)
            for name, one in workload.classes.items()
        )
    if workload.prompt_tokens is None or workload.output_tokens is None:
        missing = "prompt_tokens" if workload.prompt_tokens is None else "output_tokens"
        raise ScenarioError(
            "nothing says how long requests are",
            path=f"workload.{missing}",
            hint=f"{missing}: {{distribution: lognormal, mean: 512, max: 4096}}, or classes, or a trace",
        )
    only = RequestClass(
        share=1.0,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        shared_prefix=workload.shared_prefix,
        sessions=workload.sessions,
    )
    return (Kind(name="", request_class=only, seed=seed, base_dir=base_dir),)


def draw_kinds(kinds: Sequence[Kind], count: int, seed: int) -> Int64 | None:
    """The class of every arrival, by share; None where there is one class only."""
    if len(kinds) == 1:
        return None
    shares = np.array([kind.request_class.share for kind in kinds])
    if not (np.all(np.isfinite(shares)) and np.all(shares > 0)):
        raise ScenarioError(
            "shares are numbers above 0",
            path="workload.classes",
            given={kind.name: kind.request_class.share for kind in kinds},
        )
    edges = np.cumsum(shares)
    drawn = np.searchsorted(edges, stream(seed, "classes").random(count) * edges[-1], side="right")
    kind_of: Int64 = np.minimum(drawn, len(kinds) - 1)
    return kind_of


def by_kind(
    kinds: Sequence[Kind], kind_of: Int64 | None, count: int, draw: Callable[[Kind, int], Int64]
) -> Int64:
    """A column put together from each class's own draws: the n-th of a class goes to its n-th row."""
    if kind_of is None:
        return draw(kinds[0], count)
    column = np.empty(count, dtype=np.int64)
    for index, kind in enumerate(kinds):
        rows = np.flatnonzero(kind_of == index)
        column[rows] = draw(kind, len(rows))
    return column


def draw_prompt_tokens(kind: Kind, count: int) -> Int64:
    """Prompt lengths (of a turn's new part) of one class."""
    return kind.tokens("prompt_tokens", "prompt_tokens", kind.request_class.prompt_tokens, count)


def draw_output_tokens(kind: Kind, count: int) -> Int64:
    """Answer lengths of one class."""
    return kind.tokens("output_tokens", "output_tokens", kind.request_class.output_tokens, count)


def draw_turns(kind: Kind, count: int) -> Int64:
    """Turns of each arrival of one class: 1 where the class has no sessions."""
    sessions = kind.request_class.sessions
    if sessions is None:
        return np.ones(count, dtype=np.int64)
    return kind.tokens("sessions", "sessions.turns", sessions.turns, count)


def draw_think_ps(kind: Kind, count: int) -> Int64:
    """Pauses before later turns of one class."""
    sessions = kind.request_class.sessions
    if sessions is None:
        return np.zeros(count, dtype=np.int64)
    return kind.durations_ps("think_time", "sessions.think_time_s", sessions.think_time_s, count)


def draw_prefix_groups(kind: Kind, count: int) -> Int64:
    """The prefix group of each arrival of one class, all alike; -1 where the class shares none."""
    shared = kind.request_class.shared_prefix
    if shared is None:
        return np.full(count, -1, dtype=np.int64)
    if shared.order == "in_turn":
        return np.arange(count, dtype=np.int64) % shared.num_groups
    return kind.rng("prefix_groups").integers(0, shared.num_groups, size=count, dtype=np.int64)


def draw_prefix_lengths(kind: Kind) -> Int64:
    """Length of each prefix of one class."""
    shared = kind.request_class.shared_prefix
    if shared is None:
        return np.zeros(0, dtype=np.int64)
    return kind.tokens("prefixes", "shared_prefix.prefix_tokens", shared.prefix_tokens, shared.num_groups)
