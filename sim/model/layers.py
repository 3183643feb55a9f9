"""Which layers attend to everything, which to a sliding window."""

from __future__ import annotations

from typing import Any

from sim.model.reader import ConfigReader

MOST_LAYERS = 10_000
_KINDS = {
    "full_attention": "full_attention",
    "attention": "full_attention",
    "sliding_attention": "sliding_attention",
    "mamba": "mamba",
}

Fields = dict[str, Any]


def num_layers(c: ConfigReader) -> int:
    """Decoder layers."""
    return c.count("num_hidden_layers", "n_layer", "n_layers", "num_layers", most=MOST_LAYERS)


def listed_layers(c: ConfigReader, window: int | None) -> Fields:
    """The kinds that the config lists itself (``layer_types``); empty where it does not."""
    listed = c.value("layer_types")
    if listed is None:
        return {}
    layers = num_layers(c)
    if not isinstance(listed, list) or len(listed) != layers:
        raise c.refuse(
            "not one entry per layer",
            "layer_types",
            given=listed,
            allowed=f"{layers} kinds, one per layer",
            hint="write layer_types together with num_hidden_layers",
        )
    unknown = [kind for kind in listed if not isinstance(kind, str) or kind not in _KINDS]
    if unknown:
        raise c.refuse(
            "a kind of layer that is not modelled",
            "layer_types",
            given=unknown[0],
            allowed=", ".join(_KINDS),
            hint="a model of attention layers only",
        )
    return {"layer_types": tuple(_KINDS[kind] for kind in listed), "sliding_window": window}


def windowed_layers(c: ConfigReader, window: int | None, *, after: int = 0) -> Fields:
    """Every layer from ``after`` on has the window (none: all are full)."""
    if window is None:
        return {}
    return _by_index(c, window, lambda i: i < after)


def alternating_layers(c: ConfigReader, window: int) -> Fields:
    """Sliding first, then full, and so on (Gemma 2, gpt-oss)."""
    return one_full_in(c, window, 2)


def one_full_in(c: ConfigReader, window: int, pattern: int) -> Fields:
    """Every ``pattern``-th layer is full (Gemma 3: one in six)."""
    return _by_index(c, window, lambda i: (i + 1) % pattern == 0)


def _by_index(c: ConfigReader, window: int, is_full: Any) -> Fields:
    kinds = ("full_attention" if is_full(i) else "sliding_attention" for i in range(num_layers(c)))
    return {"layer_types": tuple(kinds), "sliding_window": window}
