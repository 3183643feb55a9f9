"""What of a serving scenario is left to chance."""

from __future__ import annotations

from sim.scenario.chance import has_drawn_values
from sim.serving.scenario import Scenario


def draws(scenario: Scenario) -> bool:
    """Whether another seed gives other numbers. A trace played at its own times is the same under each."""
    workload, speculative = scenario.workload, scenario.engine.speculative
    classes = list((workload.classes or {}).values())
    prefixes = [workload.shared_prefix, *(one.shared_prefix for one in classes)]
    are_prefixes_drawn = any(
        one is not None and one.num_groups > 1 and one.order != "in_turn" for one in prefixes
    )
    is_mixture = len(classes) > 1 or are_prefixes_drawn
    has_random_times = workload.arrivals is not None and workload.arrivals.is_random
    has_random_drafts = speculative is not None and 0 < speculative.acceptance_rate < 1
    is_drawn = is_mixture or has_random_times or has_random_drafts
    return is_drawn or has_drawn_values(workload) or has_drawn_values(scenario.engine.service_time)
