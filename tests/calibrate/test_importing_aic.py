"""AIConfigurator's tables as a price table for one model and GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibrate.commands import main
from sim.hardware import load_hardware
from sim.price.providers.table import load_price_table


def test_a_table_made_of_them_is_of_a_model_and_no_hot_loop(shared: Path, tmp_path: Path) -> None:
    """Every kernel moves its bytes from HBM: the other layers push a layer's weights and KV out of L2."""
    options = ["--model", "llama-2-7b", "--gpu", "h100_sxm"]
    assert main(["import", "aic", str(shared / "measured"), str(tmp_path / "table"), *options]) == 0
    table, hbm = load_price_table(tmp_path / "table"), load_hardware("h100-sxm-80gb").hbm_bytes_per_s
    for sequences, context in ((1, 512), (2, 1024), (16, 512), (64, 1024), (64, 4096)):
        kv_bytes = 2 * 32 * 128 * 2 * sequences * context
        time_s = table.attention.at((0.0, 0.0, float(sequences), float(context)))
        assert kv_bytes / hbm <= time_s <= 2 * kv_bytes / hbm + 25e-6


def test_a_folder_without_tables_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "llama-2-7b", "--gpu", "h100_sxm"]
    assert main(["import", "aic", str(tmp_path), str(tmp_path / "table"), *options]) == 2
    assert "kernels/aic" in capsys.readouterr().err
