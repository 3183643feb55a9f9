"""What a reader of a scenario's results is warned of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from sim.scenario.dataclass import dataclass

CautionKind = Literal[
    "too_few_requests",
    "queue_grows",
    "queue_untested",
    "long_drain",
    "no_slo",
    "requests_lost",
    "percentile_refused",
    "thin_percentile",
    "kv_never_full",
    "block_map_truncated",
    "efficiency_not_measured",
    "l2_rate_assumed",
    "model_guessed",
    "start_may_fail",
    "tile_not_fitted",
    "engine_profile_elsewhere",
    "near_capacity",
    "no_host_time",
    "acceptance_assumed",
    "one_seed",
    "not_precise",
    "too_few_steps",
    "bound_not_reached",
    "stale_gradients",
    "scales_on",
    "loss_not_falling",
    "target_not_reached",
    "renamed",
    "keys_dropped",
    "variants_not_reached",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """One warning: the observation, its meaning, the remedy.

    ``is_ranged``: variants share it though their numbers differ, which are then told as ranges.
    ``assumes``: a figure that may decide, in the words in which the answer itself says so ("Assumed: ...").
    """

    kind: CautionKind
    observation: str
    meaning: str
    remedy: str
    assumes: str = ""
    is_ranged: bool = False

    def __str__(self) -> str:
        return f"{self.observation}: {self.meaning}; {self.remedy}"


_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def ranged(cautions: Sequence[Caution]) -> Caution:
    """One for cautions of a kind that differ in their numbers: "32 to 62.9 updates old"."""

    def told(texts: Sequence[str]) -> str:
        columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
        spans = iter([sorted(column, key=lambda shown: float(shown.replace(",", ""))) for column in columns])

        def span(_: re.Match[str]) -> str:
            found = next(spans)
            return found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"

        return _NUMBER.sub(span, texts[0])

    return replace(
        cautions[0],
        observation=told([one.observation for one in cautions]),
        meaning=told([one.meaning for one in cautions]),
    )
