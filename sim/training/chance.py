"""What of a training scenario is left to chance."""

from __future__ import annotations

from sim.scenario.chance import has_drawn_values
from sim.training.delays import DELAYS
from sim.training.scenario import TrainingScenario


def draws(scenario: TrainingScenario) -> bool:
    """Whether another seed gives other numbers."""
    variation = scenario.variation
    by_chance = (variation.markov, variation.data_loader, scenario.failures, scenario.learning)
    if DELAYS[variation.distribution].is_random or any(one is not None for one in by_chance):
        return True
    return has_drawn_values(scenario.packing)
