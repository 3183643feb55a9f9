"""Document lengths to try packing on, with the padding that is published for them.

The data sets' own histograms are not shipped: each is a lognormal cut at the capacity, its median chosen so
that padding every document to the capacity wastes the published share.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from sim.elementary import exp_of, log
from sim.rng import stream


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthHistogram:
    """A cited padding share at a capacity."""

    capacity_tokens: int
    padding_fraction: float  # of rows padded to the capacity
    sigma: float  # of the logarithm; our choice
    source: str


HISTOGRAMS: dict[str, LengthHistogram] = {
    "wikipedia_bert_512": LengthHistogram(
        capacity_tokens=512,
        padding_fraction=0.50,
        sigma=1.0,
        source="Krell et al., arXiv 2107.02027: up to 50 % of Wikipedia-BERT's tokens at 512 are padding",
    ),
    "glue_cola_128": LengthHistogram(
        capacity_tokens=128,
        padding_fraction=0.89,
        sigma=0.4,
        source="Krell et al., arXiv 2107.02027: 89 % of GLUE-CoLA's tokens at 128 are padding",
    ),
    "batched_2048": LengthHistogram(
        capacity_tokens=2048,
        padding_fraction=0.30,
        sigma=0.8,
        source="seqpacker's documentation: 20 to 40 % waste of padded batches",
    ),
    "light_padding_2048": LengthHistogram(
        capacity_tokens=2048,
        padding_fraction=0.15,
        sigma=0.8,
        source="the lower end of the 15 to 50 % that is quoted for padded batches",
    ),
}


def histogram_lengths(name: str, num_documents: int, seed: int = 1) -> npt.NDArray[np.int64]:
    """``num_documents`` quantiles of the histogram, in random order."""
    histogram = HISTOGRAMS[name]
    normal = NormalDist()
    steps = np.array([normal.inv_cdf((i + 0.5) / num_documents) for i in range(num_documents)])
    low, high = 0.0, log(histogram.capacity_tokens) + 5 * histogram.sigma
    wanted = (1 - histogram.padding_fraction) * histogram.capacity_tokens
    for _ in range(60):
        middle = (low + high) / 2
        if _cut(steps, middle, histogram).mean() < wanted:
            low = middle
        else:
            high = middle
    lengths = _cut(steps, high, histogram)
    return stream(seed, f"packing.{name}").permutation(lengths)


def _cut(steps: npt.NDArray[np.float64], median: float, histogram: LengthHistogram) -> npt.NDArray[np.int64]:
    lengths = np.rint(exp_of(median + histogram.sigma * steps))
    return np.clip(lengths, 1, histogram.capacity_tokens).astype(np.int64)
