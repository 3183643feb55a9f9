"""Two thousand broken configs of every family: read, or refused with their place; never a traceback."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from published_families import FAMILIES
from unshipped_models import UNSHIPPED

from sim.errors import ScenarioError
from sim.model.catalogue import model_names
from sim.model.config import load_model
from sim.model.counts import (
    check_tensor_parallel_size,
    kv_bytes_for_request,
    kv_bytes_per_token,
    num_active_parameters,
    num_parameters,
    state_bytes_per_request,
)
from sim.model.weights import check_block_split, weight_bytes

NUM_CONFIGS = 2_000
WRONG: list[Any] = [
    None, -1, 0, 1, 2, 3, 7, 10**9, 10**20, -(10**30), 1.5, float("nan"), float("inf"), "", "8", "auto", "\0",
    True, False, [], {}, [1], [None], [[1]], [{}], [0] * 5, {"a": 1}, {"x": {"y": [1, 2]}}, "mamba",
    ["full_attention"], ["re:("],
]  # fmt: skip
QUANTIZATIONS: list[dict[str, Any]] = [
    {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "gptq", "bits": 4, "group_size": 128},
    {"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
                                                  "exclude_modules": ["model.layers.0*"]}},
    {"quant_method": "compressed-tensors", "ignore": ["re:.*mlp.*"], "kv_cache_scheme": {"num_bits": 8},
     "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int",
                                                               "strategy": "group", "group_size": 32}}}},
]  # fmt: skip


def whole_configs() -> list[dict[str, Any]]:
    shipped = [json.loads((files("sim._data") / "models" / f"{n}.json").read_text()) for n in model_names()]
    others = [config for config, _ in UNSHIPPED.values()]
    return [*shipped, *others, *({"rms_norm_eps": 1e-6, **family.config} for family in FAMILIES.values())]


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in a config, and of the first three of a list."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(min(len(value), 3))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield (*before, key)
        yield from places(value[key], (*before, key))


def mutated(config: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """One to six values deleted, negated, grown, retyped, cut or replaced, at any depth."""
    config = copy.deepcopy(config)
    if draw.random() < 0.4:
        config["quantization_config"] = copy.deepcopy(draw.choice(QUANTIZATIONS))
    for _ in range(draw.choice([1, 1, 1, 2, 3, 6])):
        found = list(places(config))
        if not found:
            break
        *parents, key = draw.choice(found)
        at: Any = config
        for one in parents:
            at = at[one]
        value, how = at[key], draw.random()
        if how < 0.25:
            del at[key]
        elif how < 0.35 and type(value) is int:
            at[key] = draw.choice([-value, value * 1000, value + 1, float(value), str(value)])
        elif how < 0.45 and isinstance(value, list) and value:
            at[key] = value[:-1]
        else:
            at[key] = copy.deepcopy(draw.choice(WRONG))
    return config


def count_everything(config: dict[str, Any]) -> None:
    shape = load_model(config)
    assert 0 < num_active_parameters(shape) <= num_parameters(shape)
    for tp in (1, 2, 8):
        assert kv_bytes_for_request(shape, 1000, 2, tp) <= 1000 * kv_bytes_per_token(shape, 2, tp)
        assert state_bytes_per_request(shape, tensor_parallel_size=tp) >= 0
        assert weight_bytes(shape, tensor_parallel_size=tp) > 0
        check_tensor_parallel_size(shape, tp)
        check_block_split(shape, tp)


def test_two_thousand_mutated_configs_are_read_or_refused() -> None:
    draw, configs, refused = random.Random(14), whole_configs(), 0
    for _ in range(NUM_CONFIGS):
        config = mutated(draw.choice(configs), draw)
        try:
            count_everything(config)
        except ScenarioError as error:
            refused += 1
            assert error.path.startswith(("model", "engine.tensor_parallel_size"))
    # Neither all nor none: the test sees both.
    assert NUM_CONFIGS // 4 < refused < NUM_CONFIGS * 9 // 10
