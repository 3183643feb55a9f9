"""The stepped ring: every frame says truly whose gradients each chunk sums, and the picture says it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.figures import Picture, lanes
from sim.report.html import render_html
from sim.results.answer import Answer
from sim.training.exchange.ring import ring_frames, ring_states
from sim.training.report.ring import link_pictures, ring_picture

TEXT = """
schema_version: 1
question: Which chunk is where?
kind: training
hardware: a100-sxm-80gb
training: {num_workers: 4, num_steps: 30}
compute: {compute_s: 100 ms, gradient_bytes: 1 GB}
exchange: {algorithm: ring, overlap: false, bucket_cap_mb: 1000, first_bucket_mb: 1000}
"""


def answer_to(folder: Path, text: str = TEXT) -> Answer:
    """The scenario, run."""
    path = folder / "ring.yaml"
    path.write_text(text, encoding="utf-8")
    return run_scenario(load_scenario(path))


def picture_of(answer: Answer) -> Picture | None:
    """Its ring."""
    results: Any = answer.results
    return ring_picture(results, lanes(answer.comparison.variants))


@given(st.integers(2, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_frame_is_what_the_chunks_really_sum_to(n: int, length: int, seed: int) -> None:
    """Whole numbers, so that the order of adding changes nothing: each cell = the sum of the named ranks'."""
    drawn = np.random.default_rng(seed).integers(-99, 100, size=(n, length)).astype(np.float64)
    parts = [np.array_split(gradient, n) for gradient in drawn]
    for frame, held in zip(ring_frames(n), ring_states(list(drawn)), strict=True):
        for rank in range(n):
            for chunk in range(n):
                expected = sum(parts[one][chunk] for one in frame.summed[rank][chunk])
                assert np.array_equal(held[rank][chunk], expected)


@given(st.integers(2, 40))
def test_reduce_scatter_then_all_gather(n: int) -> None:
    frames, everyone = ring_frames(n), tuple(range(n))
    assert len(frames) == 2 * (n - 1) + 1
    assert [frame.phase for frame in frames] == ["start"] + ["reduce-scatter"] * (n - 1) + ["all-gather"] * (
        n - 1
    )
    assert all(frames[0].summed[rank][chunk] == (rank,) for rank in range(n) for chunk in range(n))
    scattered = frames[n - 1].summed
    whole = [[chunk for chunk in range(n) if scattered[rank][chunk] == everyone] for rank in range(n)]
    assert whole == [[(rank + 1) % n] for rank in range(n)]
    assert all(summed == everyone for chunks in frames[-1].summed for summed in chunks)
    for frame in frames[1:]:
        assert [(sender, receiver) for sender, receiver, _ in frame.sends] == [
            (rank, (rank + 1) % n) for rank in range(n)
        ]
        assert sorted(chunk for _, _, chunk in frame.sends) == list(range(n))


def test_the_picture_steps_from_own_gradients_to_sums(tmp_path: Path) -> None:
    answer = answer_to(tmp_path)
    picture = picture_of(answer)
    assert picture is not None
    assert [frame["name"] for frame in picture.frames] == [str(step) for step in range(7)]
    steps = [step["args"][0][0] for step in picture.layout["sliders"][0]["steps"]]
    assert steps == [frame["name"] for frame in picture.frames]
    texts = [frame["data"][1]["text"] for frame in picture.frames]
    assert texts[0] == [str(rank) for rank in range(4) for _ in range(4)]
    assert texts[3].count("sum") == 4 and set(texts[-1]) == {"sum"}
    # chunk 1 goes 1 -> 2 -> 3 -> 0 and is whole on GPU 0 after three steps
    assert [texts[step][(1 + step) % 4 * 4 + 1] for step in range(4)] == ["1", "1+2", "1+2+3", "sum"]
    # 2(n-1)/n = 1.5 times 1 GB at 300 GB/s is 5 ms, and six messages' latency
    assert "1.5 times 954 MiB, 5.02 ms" in picture.reading
    assert 'id="plot-ring"' in render_html(report_of(answer))


@pytest.mark.parametrize("num_workers", [2, 8, 64])
def test_large_rings_are_drawn_small_but_told_whole(tmp_path: Path, num_workers: int) -> None:
    picture = picture_of(answer_to(tmp_path, TEXT.replace("num_workers: 4", f"num_workers: {num_workers}")))
    assert picture is not None
    assert len(picture.frames) == 2 * (min(num_workers, 8) - 1) + 1
    assert ("Drawn with 8 of the 64 GPUs" in picture.reading) == (num_workers == 64)
    share = 2 * (num_workers - 1) / num_workers
    assert f"2(n-1)/n = {share:.3g} times" in picture.reading


@pytest.mark.parametrize("changed", ["algorithm: tree", "algorithm: none"])
def test_no_ring_no_picture(tmp_path: Path, changed: str) -> None:
    assert picture_of(answer_to(tmp_path, TEXT.replace("algorithm: ring", changed))) is None


CHUNKED = TEXT.replace("algorithm: ring", "algorithm: ring, chunks: true")


def sends_of(folder: Path, text: str) -> tuple[Any, dict[tuple[int, int, int], tuple[int, int]], Any]:
    """The run, (begin, end) by (bucket, step, rank), and the chunks in the same order."""
    result: Any = answer_to(folder, text).results["base"][0]
    sends = result.outcome.ring_sends
    keys = zip(sends.bucket.tolist(), sends.step.tolist(), sends.rank.tolist(), strict=True)
    times = zip(sends.begin_ps.tolist(), sends.end_ps.tolist(), strict=True)
    return result, dict(zip(keys, times, strict=True)), sends.chunk.tolist()


def test_a_rings_sends_follow_the_closed_form(tmp_path: Path) -> None:
    """All ready at 100 ms: step k begins k (α + S/nB) later, and the update comes with the last arrival."""
    result, times, _ = sends_of(tmp_path, CHUNKED)
    begin, end = times[0, 0, 0]
    step_ps = times[0, 1, 0][0] - begin
    assert begin == 10**11
    assert end - begin == pytest.approx(1e9 / 4 / 300e9 * 1e12)
    assert all(one[0] == begin + step * step_ps for (_, step, _), one in times.items())
    assert int(result.outcome.update_ps[0]) == begin + 6 * step_ps


@pytest.mark.parametrize("late", [0, 1, 3])
@pytest.mark.parametrize("overlap", ["false", "true"])
def test_no_chunk_is_sent_before_it_is_there_and_no_link_carries_two(
    tmp_path: Path, late: int, overlap: str
) -> None:
    text = CHUNKED.replace("overlap: false", f"overlap: {overlap}").replace(
        "bucket_cap_mb: 1000", "bucket_cap_mb: 100"
    )
    text += f"variation: {{distribution: exponential, slow_workers: [{{worker: {late}, slowdown: 1.5}}]}}\n"
    result, times, chunks = sends_of(tmp_path, text)
    n = 4
    assert len(times) == 2 * (n - 1) * n * result.explain["exchange"]["num_buckets"]
    for (bucket, step, rank), (begin, _) in times.items():
        if step:
            # what it sends came from the left one step ago, at least a latency after it left the link
            assert begin > times[bucket, step - 1, (rank - 1) % n][1]
            assert begin >= times[bucket, step - 1, rank][1]
        elif bucket:
            assert begin >= times[bucket - 1, 2 * (n - 1) - 1, (rank - 1) % n][1]
    by_key = dict(zip(times, chunks, strict=True))
    for (bucket, step, rank), chunk in by_key.items():
        assert chunk == by_key.get((bucket, step - 1, (rank - 1) % n), chunk)
    assert max(end for _, end in times.values()) < int(result.outcome.update_ps[0])


def test_the_links_picture_names_who_is_late(tmp_path: Path) -> None:
    answer = answer_to(tmp_path, CHUNKED + "variation: {slow_workers: [{worker: 3, slowdown: 1.2}]}\n")
    results: Any = answer.results
    (picture,) = link_pictures(results, lanes(answer.comparison.variants))
    assert "GPU 3 starts 20.0 ms after the first" in picture.reading
    assert len(picture.rows) == 2 * 3 * 4 == sum(len(trace["x"]) for trace in picture.traces)
    assert not link_pictures(answer_to(tmp_path).results, lanes(["base"]))  # type: ignore[arg-type]
