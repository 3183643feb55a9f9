"""One reader per format."""

from __future__ import annotations

import argparse

from calibrate.importing.aic import read_aic
from calibrate.importing.llmservingsim import read_llmservingsim
from calibrate.importing.own import read_own
from calibrate.importing.own_rows import read_own_rows
from calibrate.importing.table_writing import Measured
from calibrate.importing.vidur import read_vidur
from calibrate.own.rows import is_own_folder
from sim.cost.price_table import HEADER


def read_measured(given: argparse.Namespace) -> Measured:
    """The measurements that the command line names."""
    if given.format == "llmservingsim":
        return read_llmservingsim(given.path, given.tensor_parallel_size)
    if given.format == "vidur":
        return read_vidur(given.path, given.tensor_parallel_size, given.model, given.gpu)
    if given.format == "aic":
        return read_aic(given.path, given.model, given.gpu, given.tensor_parallel_size)
    if is_own_folder(given.path) and not (given.path / HEADER).is_file():
        return read_own_rows(given.path, given.model, given.tensor_parallel_size, given.provider)
    return read_own(given.path)
