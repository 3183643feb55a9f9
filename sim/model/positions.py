"""How many tokens a model is made for, and how much of a head its rotary embeddings turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sim.model.families import Traits
from sim.model.mixer_rules import is_recurrent_only
from sim.model.reader import LARGEST, ConfigReader

# vLLM takes the smallest of these; ``model_max_length`` then replaces it (0.33's ``derive_max_model_len``).
POSITIONS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
    "max_target_positions", "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
ASSUMED_POSITIONS = 2048

_NO_POSITIONS = (
    f"no key says how many tokens the model is made for (max_position_embeddings or another name): "
    f"{ASSUMED_POSITIONS:,} are assumed, as vLLM does"
)

# By their effect on the longest context. Already in the config's number: Llama 3's and LongRoPE's factors.
_IN_THE_NUMBER = frozenset(
    ["default", "su", "longrope", "llama3", "mllama4", "mrope", "bailing_mrope", "xdrope", "openpangu",
     "proportional", "deepseek_llama_scaling"]
)  # fmt: skip
_OF_THE_ORIGINAL = frozenset(["yarn", "deepseek_yarn", "telechat3-yarn"])
_TIMES = frozenset(["linear", "dynamic", "ntk"])


def longest_context(c: ConfigReader, traits: Traits) -> int:
    """Tokens that the model is made for, its rope scaling included, as vLLM derives them.

    YaRN: its factor times the original positions; linear and dynamic scaling: times the config's own.
    Without any key it is vLLM's assumption, and a note says so.
    """
    found = [c.count(name) for name in POSITIONS if c.value(name) is not None]
    replacing = c.optional_count("model_max_length")
    if not found:
        found = [c.count("n_ctx", default=ASSUMED_POSITIONS)]
        if c.value("n_ctx") is None and not is_recurrent_only(c):  # a state of fixed size has no longest
            c.notes.append(_NO_POSITIONS)
    positions = min(found) if replacing is None else replacing
    factor = 1.0
    for one in _scalings(c):
        kind = _kind(c, one)
        if kind in _IN_THE_NUMBER or traits.scaled_positions:
            continue
        if "factor" not in one and not (kind == "dynamic" and "alpha" in one):
            raise c.refuse("missing", "rope_scaling.factor", allowed=f"the factor of {kind} scaling")
        stated = one.get("factor", factor)
        if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated <= 1e6:
            raise c.refuse("not a factor", "rope_scaling.factor", given=stated, allowed="above 0, to 1e6")
        factor = float(stated)
        if kind in _OF_THE_ORIGINAL:
            original = one.get("original_max_position_embeddings", positions)
            positions = c.whole(original, "rope_scaling.original_max_position_embeddings")
    return min(int(positions * factor), LARGEST)


def rotary_rows(c: ConfigReader, traits: Traits, positions: int) -> int | None:
    """Rows of vLLM's cos/sin tables, one table for each setting; None where that is one of all positions.

    Linear scaling makes a table as many times longer than the config's positions, also where these have the
    scaling in them already (Gemma 3: 8 times 131,072 rows for its full layers, 131,072 for its windows).
    """
    distinct: dict[str, float] = {}
    for one in _scalings(c):
        factor, kind = one.get("factor", 1.0), _kind(c, one)
        is_longer = kind in _TIMES and traits.scaled_positions and type(factor) in (int, float)
        distinct[repr(sorted(one.items(), key=str))] = float(factor) if is_longer and factor > 1 else 1.0
    if c.value("rope_local_base_freq") is not None:
        distinct.setdefault("", 1.0)
        distinct = distinct if len(distinct) > 1 else {**distinct, "local": 1.0}
    rows = sum(int(positions * factor) for factor in distinct.values())
    return None if rows in (0, positions) else min(rows, LARGEST)


def _scalings(c: ConfigReader) -> Iterator[Mapping[str, Any]]:
    """Every rope setting of the config: one for all layers, or one for each kind of layer."""
    for name in ("rope_scaling", "rope_parameters"):
        given = c.value(name)
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise c.refuse("not a mapping", name, given=given, allowed="{rope_type: yarn, factor: 4.0, ...}")
        yield from [one for one in given.values() if isinstance(one, Mapping)] or [given]
        return


def _kind(c: ConfigReader, scaling: Mapping[str, Any]) -> str:
    given = scaling.get("rope_type", scaling.get("type"))
    known = _IN_THE_NUMBER | _OF_THE_ORIGINAL | _TIMES
    if given is None:
        return "default"
    if not isinstance(given, str) or given not in known:
        raise c.refuse(
            "a kind of rope scaling that vLLM does not know",
            "rope_scaling.rope_type",
            given=given,
            allowed=", ".join(sorted(known)),
        )
    return given


# Words of ``position_embedding_type`` and its like that are not rotary.
_NOT_ROTARY = ("alibi", "nope", "none", "learned", "absolute", "relative", "no")


def rotary_fraction(c: ConfigReader, traits: Traits, found: Mapping[str, Any], head_dim: int) -> float:
    """The part of a head that rotary embeddings turn; 0 where positions are told otherwise, or not at all."""
    if found.get("learned_positions") or not found.get("rotary", traits.rotary):
        return 0.0
    word = c.value("position_embedding_type", "position_embedding", "pos_emb", "positional_embedding")
    if isinstance(word, str) and word.lower().startswith(_NOT_ROTARY):
        return 0.0
    if any(c.value(one) is True for one in ("alibi", "use_alibi", "mla_use_nope")):
        return 0.0
    if any(c.value(one) is False for one in ("use_rope", "use_rotary", "use_rotary_embeddings", "rope")):
        return 0.0
    marks = c.value("no_rope_layers")
    if isinstance(marks, list) and marks and not any(marks):
        return 0.0
    inner = [scaling.get("partial_rotary_factor") for scaling in _scalings(c)]
    given = c.value("partial_rotary_factor", "rotary_pct", "rotary_percentage", "rope_pct")
    stated = [one for one in (given, *inner) if type(one) in (int, float) and 0 <= one <= 1]
    if stated:
        return float(stated[0])
    entries = c.value("rotary_dim", "attn_rotary_emb")
    return entries / head_dim if type(entries) is int and 0 < entries <= head_dim else 1.0
