"""The recipe "a format of `calibrate import` is a reader and one entry of IMPORTERS"."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibrate.commands import main
from calibrate.importing.readers import IMPORTERS, Importer, ImportSource
from calibrate.importing.table_writing import Measured
from sim.price.providers.table import load_price_table


def read_dummy(source: ImportSource) -> Measured:
    return Measured(
        device="dummy",
        model=source.model,
        tensor_parallel_size=source.tensor_parallel_size,
        shape={},
        calls={"everything": 1},
        source="made up",
        per_token=[("everything", 1, 1e-6), ("everything", 1024, 1e-3)],
        per_sequence=[("lm_head", 1, 1e-6), ("lm_head", 64, 1e-5)],
        attention=[(0, 0, 1, 128, 1e-6), (0, 0, 8, 1024, 1e-5)],
    )


def test_a_new_format_is_imported_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", "dummy", str(tmp_path), str(tmp_path / "out"), "--model", "some-model"]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    monkeypatch.setitem(IMPORTERS, "dummy", Importer(meaning="made up numbers", read=read_dummy))
    with pytest.raises(SystemExit, match="0"):
        main(["import", "--help"])
    assert "dummy: made up numbers" in " ".join(capsys.readouterr().out.split())
    assert main(command) == 0
    table = load_price_table(tmp_path / "out")
    assert (table.device, table.model, table.source) == ("dummy", "some-model", "made up")
