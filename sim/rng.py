"""Named random streams: adding a draw to one leaves the others alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NEIGHBOURS, MOST_GROUPS = 128, 8  # streams that are found at once, and how often that is kept


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of ``name`` under ``seed``.

    The same seed and name give the same draws in every variant: common random numbers. Uniform and whole
    numbers are the same everywhere. NumPy computes the tails of normal and exponential numbers (3 and 5 draws
    in 10,000) with libm's log1p, whose last digit may differ: two of 60 million exponential draws did between
    a glibc with and without FMA, no normal one. Gamma numbers of a shape below 1 do often;
    ``sim.serving.workload`` has its own.
    """
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


class Streams:
    """The generators of many names, one at a time: to make them one by one takes longer than to draw.

    It is always the same generator, set to the beginning of the stream that was asked for.
    """

    def __init__(self, seed: int) -> None:
        self._seed = _words(seed)
        self._bits = np.random.PCG64(0)
        self._generator = np.random.Generator(self._bits)
        self._groups: dict[tuple[str, int], list[tuple[int, int]]] = {}

    def of(self, name: str) -> np.random.Generator:
        """The generator of a name."""
        return self._at(self.starts([name])[0])

    def numbered(self, prefix: str, number: int) -> np.random.Generator:
        """That of the prefix with the number in twelve digits; those near it are found with it."""
        group, place = divmod(number, NEIGHBOURS)
        starts = self._groups.get((prefix, group))
        if starts is None:
            if len(self._groups) > MOST_GROUPS:
                self._groups.clear()
            numbers = range(group * NEIGHBOURS, (group + 1) * NEIGHBOURS)
            starts = self._groups[prefix, group] = self.starts([f"{prefix}{one:012d}" for one in numbers])
        return self._at(starts[place])

    def starts(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Where the stream of each name begins: state and increment of PCG64."""
        crcs = np.array([zlib.crc32(name.encode()) for name in names], dtype=np.uint32)
        entropy = [np.full(len(crcs), word, dtype=np.uint32) for word in self._seed]
        words = _seed_words([*entropy, crcs])
        return [_start(high << 64 | low, above << 64 | below) for high, low, above, below in words.tolist()]

    def _at(self, start: tuple[int, int]) -> np.random.Generator:
        """The generator, set to this beginning."""
        state, increment = start
        self._bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator


def _words(number: int) -> list[int]:
    """A whole number in pieces of 32 bits, the lowest first, as ``SeedSequence`` takes it."""
    words = [number & 0xFFFFFFFF]
    while number := number >> 32:
        words.append(number & 0xFFFFFFFF)
    return words


def _seed_words(entropy: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint64]:
    """NumPy's ``SeedSequence(entropy).generate_state(4, uint64)``, a row for each of many entropies.

    After M. E. O'Neill, "Developing a seed_seq alternative" (2015), in NumPy since 1.17 and kept stable.
    """
    half = np.uint32(16)
    scale = 0x43B0D7E5

    def hashed(value: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        nonlocal scale
        value = value ^ np.uint32(scale)
        scale = scale * 0x931E8875 & 0xFFFFFFFF
        value = value * np.uint32(scale)
        result: npt.NDArray[np.uint32] = value ^ (value >> half)
        return result

    def mixed(one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        value = np.uint32(0xCA01F9DD) * one - np.uint32(0x4973F715) * other
        result: npt.NDArray[np.uint32] = value ^ (value >> half)
        return result

    nothing = np.zeros_like(entropy[0])
    pool = [hashed(entropy[at] if at < len(entropy) else nothing) for at in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in entropy[4:]:
        for target in range(4):
            pool[target] = mixed(pool[target], hashed(word))
    scale, state = 0x8B51F9DD, []
    for at in range(8):
        value = pool[at % 4] ^ np.uint32(scale)
        scale = scale * 0x58F38DED & 0xFFFFFFFF
        value = value * np.uint32(scale)
        state.append((value ^ (value >> half)).astype(np.uint64))
    pairs = [state[at] | state[at + 1] << np.uint64(32) for at in range(0, 8, 2)]
    return np.stack(pairs, axis=1)


def _start(seed: int, sequence: int) -> tuple[int, int]:
    """PCG64's state and increment from its seed (M. E. O'Neill, HMC-CS-2014-0905, ``pcg_setseq_128``)."""
    mask = (1 << 128) - 1
    increment = (sequence << 1 | 1) & mask
    return ((increment + seed) * 0x2360ED051FC65DA44385DF649FCCF645 + increment) & mask, increment
