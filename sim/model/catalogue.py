"""The shipped shapes, by their own names and by the names on Hugging Face whose config they have."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from sim.scenario.dataclass import dataclass
from sim.scenario.shipped import data_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A shipped shape: the config's keys, and what the file says of itself (``_gpuyard``)."""

    name: str
    file: str
    keys: Mapping[str, Any]
    about: Mapping[str, Any]


def model_names() -> list[str]:
    """The shipped shapes, in alphabetical order."""
    return sorted(path.stem for path in data_dir("models").glob("*.json"))


def shipped_model(name: str) -> Shipped:
    """One of ``model_names``."""
    text = (data_dir("models") / f"{name}.json").read_text(encoding="utf-8")
    keys = json.loads(text)
    return Shipped(name=name, file=f"{name}.json", keys=keys, about=keys["_gpuyard"])


_OF_PAGE = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/")


def _on_hugging_face() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Each name there: the shipped shape, and in which keys its config differs from that (``variants``)."""
    return _names_of(tuple(model_names()), str(data_dir("models")))


@cache
def _names_of(stems: tuple[str, ...], _folder: str) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for stem in stems:
        about = shipped_model(stem).about
        page = _OF_PAGE.match(about["source"])
        same = [*([page[1]] if page else []), *about.get("also", ())]
        found |= {name: (stem, {}) for name in same}
        found |= {name: (stem, changed) for name, changed in about.get("variants", {}).items()}
    return found


def hugging_face_names() -> dict[str, str]:
    """Names on Hugging Face, and the shipped shape that each of them has.

    The name that a shape's source is the page of, others with the same config (``also``), and those whose
    config differs in a few keys (``variants``: an instruct model that was made for a shorter context).
    """
    return {name: stem for name, (stem, _) in _on_hugging_face().items()}


def by_hugging_face_name(given: str) -> Shipped | None:
    """The shape of that name, whatever its case, also without its owner; a variant goes by its own name."""
    names = {one.lower().rpartition("/")[2]: one for one in _on_hugging_face()}
    names |= {one.lower(): one for one in _on_hugging_face()}
    name = names.get(given.lower())
    if name is None:
        return None
    stem, changed = _on_hugging_face()[name]
    base = shipped_model(stem)
    if not changed:
        return base
    # Its source is its own page, and a published number of the other one's parameters is not its.
    about = {"source": f"https://huggingface.co/{name}/blob/main/config.json"}
    own = name.rsplit("/", 1)[-1].lower()
    return Shipped(name=own, file=base.file, keys=with_differences(base.keys, changed), about=about)


def with_differences(keys: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The config with these keys changed: in its language model, where it has one of its own."""
    part = keys.get("text_config")
    if isinstance(part, Mapping):
        return {**keys, "text_config": {**part, **changed}}
    return {**keys, **changed}


def names_close_to(given: str) -> list[str]:
    """Up to three names that a misspelt one may mean."""
    last = given.replace("\\", "/").rsplit("/", 1)[-1].lower()
    names = {name.lower(): name for name in model_names()}
    if "/" in given:
        names = {name.rpartition("/")[2].lower(): name for name in hugging_face_names()}
    return [names[one] for one in difflib.get_close_matches(last, names, n=3, cutoff=0.6)]
