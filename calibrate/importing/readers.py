"""The formats that ``calibrate import`` reads: one entry each, the only place that names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from calibrate.importing.table_writing import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSource:
    """What the command line says of the measurements; a reader uses what its format does not say itself."""

    folder: Path
    model: str = ""
    gpu: str = ""
    tensor_parallel_size: int = 1
    provider: str = "fastest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """A format: what it is, and who reads it."""

    meaning: str
    read: Callable[[ImportSource], Measured]


def _aic(source: ImportSource) -> Measured:
    from calibrate.importing.aic import read_aic

    return read_aic(source.folder, source.model, source.gpu, source.tensor_parallel_size)


def _llmservingsim(source: ImportSource) -> Measured:
    from calibrate.importing.llmservingsim import read_llmservingsim

    return read_llmservingsim(source.folder, source.tensor_parallel_size)


def _vidur(source: ImportSource) -> Measured:
    from calibrate.importing.vidur import read_vidur

    return read_vidur(source.folder, source.tensor_parallel_size, source.model, source.gpu)


def _measured(source: ImportSource) -> Measured:
    from calibrate.importing.measurements import read_measured_folder

    return read_measured_folder(source.folder, source.model, source.tensor_parallel_size, source.provider)


def _price_table(source: ImportSource) -> Measured:
    from calibrate.importing.price_table import read_price_table

    return read_price_table(source.folder)


# Readers import pandas, so each is imported when its format is read.
IMPORTERS: dict[str, Importer] = {
    "aic": Importer(meaning="AIConfigurator's tables of kernel times", read=_aic),
    "llmservingsim": Importer(meaning="LLMServingSim's profile folder", read=_llmservingsim),
    "vidur": Importer(meaning="Vidur's profiling tables", read=_vidur),
    "measured": Importer(meaning="a folder that `calibrate measure` wrote", read=_measured),
    "price_table": Importer(meaning="a price table, checked and written again", read=_price_table),
}
