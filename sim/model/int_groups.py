"""AWQ, GPTQ and AutoRound: integer codes, a scale and a zero point for each group, module by module.

Read from vLLM 0.33.0 (``auto_awq.py``, ``auto_gptq.py``) and GPTQModel's ``dynamic`` rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sim.model.module_names import MODULES, Checkpoint, ModuleNames, kept_modules
from sim.model.reader import ConfigReader
from sim.model.shape import WeightScheme, grouped

# A rule of GPTQModel's ``dynamic``: the modules it names, and their scheme; None: they stay 16-bit.
Rule = tuple[ModuleNames, WeightScheme | None]

_NOT_LOADED = "vLLM 0.33 refuses {}, which older releases load: the bytes are what those take"
KERNEL_GROUPS = (None, 32, 64, 128)  # of Marlin's kernels, by which 0.33 loads GPTQ


def awq(q: ConfigReader) -> Checkpoint:
    """AWQ: 4 bits (8 by older releases' Marlin), all modules but those listed."""
    scheme = _scheme(q, (4, 8))
    kept = kept_modules(q)
    return Checkpoint(
        scheme_of=lambda layer, matrix: None if _is_whole(kept, layer, matrix) else scheme,
        lm_head=scheme if q.flag("lm_head", default=False) and not kept.names("lm_head") else None,
    )


def gptq(q: ConfigReader) -> Checkpoint:
    """GPTQ: ``dynamic`` skips modules or gives them other bits, the first rule that matches holds."""
    scheme, kept = _scheme(q, (2, 3, 4, 8)), kept_modules(q)
    rules, listed = _rules(q, scheme), _listed(q)

    def scheme_of(layer: int, matrix: str) -> WeightScheme | None:
        if _is_whole(kept, layer, matrix) or (listed is not None and not listed.has(layer, matrix)):
            return None
        return next((own for names, own in rules if names.has(layer, matrix)), scheme)

    lm_head = None
    if q.flag("lm_head", default=False):
        lm_head = next((own for names, own in rules if names.names("lm_head")), scheme)
    return Checkpoint(scheme_of=scheme_of, lm_head=lm_head, notes=_notes(q, scheme))


def auto_round(q: ConfigReader) -> Checkpoint:
    """Intel's AutoRound in the packing of GPTQ or AWQ; ``extra_config`` has the modules of other bits."""
    kind = q.text("data_type", default="int")
    if kind != "int":
        raise q.refuse("not modelled", "data_type", given=kind, allowed="int")
    scheme, kept, inner = _scheme(q, (2, 3, 4, 8)), kept_modules(q), q.inner("extra_config")
    rules: list[Rule] = []
    for key in inner.keys if inner is not None else ():
        own = inner.inner(str(key)) if inner is not None else None
        if own is not None:
            is_whole = own.count("bits", default=scheme.bits, most=LARGEST_BITS) >= 16
            # A name, or a pattern that stands for many.
            entry = f"re:.*{key}" if re.search(r"[*+?\\^$(|\[]", str(key)) else str(key)
            names = ModuleNames(q, "extra_config", [entry])
            rules.append((names, None if is_whole else _scheme(own, (2, 3, 4, 8), scheme)))

    def scheme_of(layer: int, matrix: str) -> WeightScheme | None:
        if _is_whole(kept, layer, matrix):
            return None
        return next((own for names, own in rules if names.has(layer, matrix)), scheme)

    head = next((own for names, own in rules if names.names("lm_head")), None)
    return Checkpoint(scheme_of=scheme_of, lm_head=head)


def _is_whole(kept: ModuleNames, layer: int, matrix: str) -> bool:
    return matrix not in MODULES or kept.has(layer, matrix)


def _scheme(q: ConfigReader, allowed: Sequence[int], base: WeightScheme | None = None) -> WeightScheme:
    """Bits and group of a whole config, or of a rule that changes ``base``."""
    bits = q.count("bits", "w_bit", default=base.bits if base else 4, most=LARGEST_BITS)
    if bits not in allowed:
        words = " or ".join([", ".join(map(str, allowed[:-1])), str(allowed[-1])])
        raise q.refuse("not modelled", "bits", given=bits, allowed=words)
    if base is not None and q.value("group_size", "q_group_size") is None:
        group = base.group
    elif q.value("group_size", "q_group_size") == -1:
        group = None
    else:
        group = q.count("group_size", "q_group_size", default=128, most=1_000_000)
    return grouped(bits, group, has_zeros=True)


LARGEST_BITS = 64


def _rules(q: ConfigReader, base: WeightScheme) -> list[Rule]:
    inner = q.inner("dynamic")
    found: list[Rule] = []
    for key in inner.keys if inner is not None else ():
        pattern = str(key).removeprefix("+:").removeprefix("-:")
        names = ModuleNames(q, "dynamic", [f"re:{pattern}"])
        given = inner.keys[key] if inner is not None else None
        if str(key).startswith("-:"):
            found.append((names, None))
            continue
        if not isinstance(given, Mapping):
            raise q.refuse(
                "not a mapping", f"dynamic.{key}", given=given, allowed="{bits: 8, group_size: 64}"
            )
        own = ConfigReader(given, file=q.file, path=f"{q.path}.dynamic.{key}")
        found.append((names, _scheme(own, (2, 3, 4, 8), base)))
    return found


def _listed(q: ConfigReader) -> ModuleNames | None:
    """``modules_in_block_to_quantize``: all others stay 16-bit."""
    given = q.value("modules_in_block_to_quantize")
    if not given:
        return None
    if isinstance(given, list):
        given = [name for one in given for name in (one if isinstance(one, list) else [one])]
    return ModuleNames(q, "modules_in_block_to_quantize", given)


def _notes(q: ConfigReader, scheme: WeightScheme) -> tuple[str, ...]:
    """What vLLM 0.33 no longer loads of GPTQ."""
    refused = []
    if scheme.bits not in (4, 8):
        refused.append(f"GPTQ of {scheme.bits} bits")
    if scheme.group not in KERNEL_GROUPS:
        refused.append(f"GPTQ with groups of {scheme.group}")
    if q.flag("desc_act", default=False) and scheme.group is not None:
        refused.append("GPTQ whose groups follow the order of activations (desc_act)")
    if not q.flag("sym", default=True):
        refused.append("asymmetric GPTQ (sym: false)")
    return tuple(_NOT_LOADED.format(what) for what in refused)
