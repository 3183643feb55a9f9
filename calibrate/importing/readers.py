"""One reader per format."""

from __future__ import annotations

import argparse

from calibrate.importing.llmservingsim import read_llmservingsim
from calibrate.importing.table_writing import Measured
from sim.errors import ScenarioError


def read_measured(given: argparse.Namespace) -> Measured:
    """The measurements that the command line names."""
    if given.format == "llmservingsim":
        return read_llmservingsim(given.path, given.tensor_parallel_size)
    raise ScenarioError("no reader of this format yet", given=given.format, allowed="llmservingsim")
