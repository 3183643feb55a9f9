"""``summary.json``: every seed's summary and the comparison; the same bytes for the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sim.comparison import Comparison
from sim.summary import Summary

SUMMARY_SCHEMA_VERSION = 1


def summary_json(summaries: Mapping[str, Sequence[Summary]], *, comparison: Comparison | None = None) -> str:
    """The summaries by variant (a list per seed) as JSON text: no times of day, no paths, no durations."""
    first = next((found[0] for found in summaries.values() if found), None)
    content: dict[str, Any] = {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "question": first.question if first else "",
        "hardware": first.hardware if first else "",
        "model": first.model if first else "",
        "runs": [summary.to_dict() for found in summaries.values() for summary in found],
    }
    if comparison is not None and len(comparison.variants) > 1:
        content["comparison"] = comparison.to_dict()
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
