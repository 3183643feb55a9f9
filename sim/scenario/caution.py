"""What a reader of a scenario's results is warned of."""

from __future__ import annotations

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

    ``assumes``: a figure that may decide, in the words in which the answer itself says so ("Assumed: ...").
    """

    kind: CautionKind
    observation: str
    meaning: str
    remedy: str
    assumes: str = ""

    def __str__(self) -> str:
        return f"{self.observation}: {self.meaning}; {self.remedy}"
