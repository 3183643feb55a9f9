"""From files to frozen dataclasses: every user error ends here.

``load_yaml`` reads strictly, ``build`` turns a mapping into a dataclass by its type hints and
``key()`` bounds, ``load_scenario`` does it for a whole scenario with its variants.
"""

from __future__ import annotations

from sim.loading.build import build
from sim.loading.dump import to_raw
from sim.loading.scenario_file import load_scenario
from sim.loading.strict_yaml import load_yaml

__all__ = ["build", "load_scenario", "load_yaml", "to_raw"]
