"""From a name, a path or a mapping to a ``ModelShape``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError
from sim.model.config import shape_from_config
from sim.model.shape import ModelShape

LARGEST_CONFIG_BYTES = 10_000_000


def model_names() -> list[str]:
    """The shipped shapes, in alphabetical order."""
    folder = files("sim._data") / "models"
    return sorted(
        entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")
    )


def load_model(given: str | Mapping[str, Any], *, file: str = "", path: str = "model") -> ModelShape:
    """The shape of a shipped name, of a Hugging Face config.json, or of differences from either.

    ``given`` is a name, a path to a config.json or to the directory that holds one (relative to
    ``file``, the scenario, or to the current directory), or a mapping: ``{base: NAME, ...}`` with
    differences in Hugging Face's words, or a whole config.
    """
    if isinstance(given, str):
        name, keys, where = _read(given, file, path)
        return shape_from_config(keys, name=name, file=where, about=_about(given, keys))
    if not isinstance(given, Mapping):
        raise ScenarioError(
            "not a model",
            file=file,
            path=path,
            given=given,
            allowed="a shipped name, a path to a config.json, or {base: name, ...}",
            hint="llama-3.1-8b; gpuyard list names them all",
        )
    return _from_mapping(given, file, path)


def _from_mapping(given: Mapping[str, Any], file: str, path: str) -> ModelShape:
    differences = {str(key): value for key, value in given.items() if key not in ("base", "name")}
    base, name = given.get("base"), given.get("name")
    if base is None:
        return shape_from_config(differences, name=str(name or "custom"), file=file, path=path)
    if not isinstance(base, str):
        raise ScenarioError(
            "not a name", file=file, path=f"{path}.base", given=base, allowed="a shipped model"
        )
    base_name, keys, _ = _read(base, file, f"{path}.base")
    changed = dict(keys)
    if isinstance(keys.get("text_config"), Mapping):
        changed["text_config"] = {**keys["text_config"], **differences}
    else:
        changed.update(differences)
    return shape_from_config(
        changed, name=str(name or f"{base_name} (changed)"), file=file, path=path, must_use=differences
    )


def _read(given: str, file: str, path: str) -> tuple[str, Mapping[str, Any], str]:
    """(name, keys, the file to blame) of a shipped name or of a path."""
    if given in model_names():
        text = (files("sim._data") / "models" / f"{given}.json").read_text(encoding="utf-8")
        return given, json.loads(text), f"{given}.json"
    found = _find(given, file, path)
    return (found.parent.name or found.stem), _read_config(found), str(found)


def _about(given: str, keys: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a shipped shape says of itself; a changed shape is no longer the published one."""
    return keys["_gpuyard"] if given in model_names() else None


def _find(given: str, file: str, path: str) -> Path:
    for folder in (Path(file).parent, Path()):
        try:
            place = folder / given
            if place.is_dir():
                place = place / "config.json"
            if place.is_file():
                return place
        except (OSError, ValueError):
            continue
    is_folder = (Path(file).parent / given).is_dir() or Path(given).is_dir()
    last = given.replace("\\", "/").rsplit("/", 1)[-1].lower()
    close = difflib.get_close_matches(last, model_names(), n=3, cutoff=0.6)
    raise ScenarioError(
        "a folder without config.json" if is_folder else "neither a shipped model nor a file",
        file=file,
        path=path,
        given=given,
        allowed="a name that `gpuyard list` prints, a path to a config.json, or {base: name, ...}",
        hint="did you mean " + ", ".join(close) + "?"
        if close
        else "nothing is downloaded: save the model's config.json and give its path",
    )


def _read_config(place: Path) -> Mapping[str, Any]:
    """The JSON object in a file; anything else is refused."""

    def refuse(problem: str, given: object = None) -> ScenarioError:
        return ScenarioError(
            problem,
            file=str(place),
            given=given,
            allowed="a Hugging Face config.json",
            hint="download config.json from the model's page again",
        )

    try:
        if place.stat().st_size > LARGEST_CONFIG_BYTES:
            raise refuse("too large for a config.json", f"{place.stat().st_size} bytes")
        text = place.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise refuse("not text: it holds bytes that are not UTF-8") from error
    try:
        keys = json.loads(text)
    except RecursionError as error:
        raise refuse("not a config.json: nested too deeply") from error
    except ValueError as error:
        raise refuse(f"not JSON: {error}") from error
    if not isinstance(keys, dict):
        raise refuse("not a JSON object", type(keys).__name__)
    return keys
