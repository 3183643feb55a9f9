"""Settings on one line, and a device profile's fingerprint: how every kind's report names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile


def profile_hash(profile: HardwareProfile) -> str:
    """Twelve digits that change with any number or source of the profile."""
    from sim.scenario.file import plain

    text = json.dumps(plain(profile), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def setting_text(tree: Mapping[str, Any], prefix: str = "") -> str:
    """A tree of settings on one line: ``engine.batching: static, engine.max_num_seqs: 8``."""
    parts = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            parts.append(setting_text(value, f"{prefix}{name}."))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            parts.append(f"{prefix}{name}: {json.dumps(value, default=str)}")
        else:
            shown = str(value).lower() if isinstance(value, bool) else value
            parts.append(f"{prefix}{name}: {shown}")
    return ", ".join(part for part in parts if part)
