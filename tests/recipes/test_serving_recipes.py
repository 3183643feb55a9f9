"""What a new batching policy, KV allocator, routing or vLLM release takes: one entry of one dict.

Each test registers an entry that the shipped code has never heard of, and demands that the loader, the
schema, the checks, the engine in both steppings, the block map and the report obey it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import pytest
from property.test_engines_agree import assert_same

import sim
from sim.errors import InvariantError, ScenarioError
from sim.kinds.registry import report_of
from sim.kinds.schema import scenario_schema
from sim.report.html import render_html
from sim.serving.batching.continuous import continuous
from sim.serving.batching.entry import GENERIC_KEYS
from sim.serving.batching.plan import KVView, Limits, StepPlan
from sim.serving.batching.registry import BATCHING
from sim.serving.kv import KV_ALLOCATORS, paged
from sim.serving.kv.allocator import KVSettings
from sim.serving.kv.paged import PagedKV
from sim.serving.policy_scheduler import PolicyBatching
from sim.serving.records import RunResult
from sim.serving.request import Request
from sim.serving.routing import ROUTING, Routing
from sim.serving.scenario import EngineConfig
from sim.serving.vllm.versions import VERSIONS

SCENARIO = """\
schema_version: 1
question: Does a new entry run?
kind: serving
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 300}
  prompt_tokens: {distribution: fixed, value: 512}
  output_tokens: {distribution: fixed, value: 256}
  num_requests: 120
engine: {batching: continuous, num_gpu_blocks_override: 310, max_num_batched_tokens: 8192, max_model_len: 999}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def run(file: Path, *overrides: str, has_block_map: bool = False) -> RunResult:
    """One run under these overrides."""
    scenario = sim.load_scenario(str(file), overrides=list(overrides)).base
    result = sim.run_one(scenario, base_dir=file.parent, record_block_map=has_block_map)
    assert isinstance(result, RunResult)
    return result


def run_all_ways(file: Path, *overrides: str) -> RunResult:
    """Skipping, with and without a block map, must give what single steps give."""
    stepped = run(file, *overrides, "engine.stepping=every_step", has_block_map=True)
    skipped = run(file, *overrides, has_block_map=True)
    assert_same(skipped, stepped)
    assert_same(run(file, *overrides), stepped)
    return skipped


def assert_equal(one: RunResult, other: RunResult) -> None:
    """The same times and preemptions of every request, and the same KV in use over time."""
    for name in one.requests.__dataclass_fields__:
        assert (getattr(one.requests, name) == getattr(other.requests, name)).all(), name
    assert one.kv_time_tokens_ps == other.kv_time_tokens_ps


def page(file: Path, *overrides: str) -> str:
    answer = sim.run_scenario(sim.load_scenario(str(file), overrides=list(overrides)))
    return render_html(report_of(answer))


def recipe_policy(
    waiting: Sequence[Request], running: Sequence[Request], kv: KVView, limits: Limits
) -> StepPlan:
    """Admits nobody while somebody runs."""
    return continuous(() if running else tuple(waiting)[:1], running, kv, limits)


def test_a_batching_policy_is_obeyed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScenarioError, match="recipe_policy"):
        run(file, "engine.batching=recipe_policy")
    monkeypatch.setitem(BATCHING, "recipe_policy", recipe_policy)
    mine = run_all_ways(file, "engine.batching=recipe_policy")
    assert mine.segments.num_running.max() == 1 < run(file).segments.num_running.max()
    assert (mine.requests.first_scheduled_ps[1:] >= mine.requests.finish_ps[:-1]).all()
    assert "recipe_policy" in str(scenario_schema())
    assert "recipe_policy" in page(file, "engine.batching=recipe_policy")
    with pytest.raises(ScenarioError, match="not possible with batching: recipe_policy"):
        run(file, "engine.batching=recipe_policy", "engine.long_prefill_token_threshold=5")


def test_a_plan_that_breaks_a_limit_is_rejected(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered policy that does so is our bug; one named by path is for its author to fix."""
    source = (
        "from sim.serving.batching.plan import StepPlan\n"
        "def greedy(waiting, running, kv, limits):\n"
        "    for one in waiting: kv.admit(one)\n"
        "    return StepPlan(prefill=[(one, one.prompt_tokens) for one in waiting])\n"
    )
    (file.parent / "mine.py").write_text(source, encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"mine.py:greedy broke a law in step \d+: .*"):
        run(file, "engine.batching=./mine.py:greedy", "engine.max_num_seqs=4")
    scope: dict[str, object] = {}
    exec(source, scope)
    monkeypatch.setitem(BATCHING, "greedy", scope["greedy"])  # type: ignore[arg-type]
    with pytest.raises(InvariantError, match=r"greedy broke a law in step \d+: .*running"):
        run(file, "engine.batching=greedy", "engine.max_num_seqs=4")


def test_a_policy_by_path_skips_where_it_says_how_long_it_stands(file: Path) -> None:
    source = (
        "from sim.serving.batching.continuous import continuous\n"
        "def plain(waiting, running, kv, limits):\n"
        "    return continuous(waiting, running, kv, limits)\n"
        "def lasting(waiting, running, kv, limits):\n"
        "    plan = continuous(waiting, running, kv, limits)\n"
        "    plan.stands = not plan.prefill and not plan.preempted\n"
        "    return plan\n"
    )
    (file.parent / "mine.py").write_text(source, encoding="utf-8")
    plain, lasting = (
        run_all_ways(file, f"engine.batching=./mine.py:{name}") for name in ("plain", "lasting")
    )
    assert_same(lasting, plain)
    assert (plain.requests.finish_ps == run(file).requests.finish_ps).all()
    assert len(lasting.segments.num_steps) < len(plain.segments.num_steps) / 2
    assert any("does not say for how long" in note for note in plain.notes)
    assert not any("every step" in note for note in lasting.notes)


def copied_paged_kv() -> type[PagedKV]:
    """``kv/paged.py`` under another class name."""
    scope: dict[str, type[PagedKV]] = {"__name__": "recipe_kv"}  # type: ignore[dict-item]
    exec(inspect.getsource(paged).replace("PagedKV", "OnDemandKV"), scope)
    return scope["OnDemandKV"]


def test_a_kv_allocator_is_obeyed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KV_ALLOCATORS, "recipe_kv", copied_paged_kv())
    theirs, mine = run(file), run_all_ways(file, "engine.kv_allocator=recipe_kv")
    assert mine.requests.num_preemptions.sum() > 0
    assert_equal(mine, theirs)
    kinds = [getattr(mine.segments, f"kv_{kind}") for kind in ("tokens", "reserved", "internal", "external")]
    assert all((kind >= 0).all() for kind in kinds) and (sum(kinds) <= mine.kv_budget_tokens).all()
    assert "recipe_kv" in str(scenario_schema())
    assert "recipe_kv" in page(file, "engine.kv_allocator=recipe_kv")


class IrregularKV(PagedKV):
    """Growth that no period describes: two blocks after every block."""

    @classmethod
    def of(cls, settings: KVSettings) -> Self:
        made = super().of(settings)
        made.growth_period = None  # type: ignore[assignment]
        return made

    def growth(self, request: Request) -> int:
        return 2 * super().growth(request)

    def settle(self, request: Request) -> None:
        """Its blocks were counted as they were given."""


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_an_allocator_without_a_period_is_asked_at_every_step(
    file: Path, monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    monkeypatch.setitem(KV_ALLOCATORS, "irregular", IrregularKV)
    mine = run_all_ways(file, "engine.kv_allocator=irregular", f"engine.batching={batching}")
    assert mine.segments.num_steps.max() == 1
    theirs = run(file, f"engine.batching={batching}")
    assert mine.kv_time_tokens_ps["internal"] > 1.5 * theirs.kv_time_tokens_ps["internal"]


def engines_of(file: Path, engine: str, *differences: str) -> list[EngineConfig]:
    """The engine sections of variants of ``engine`` with these differences."""
    variants = "\n".join(f"    v{number}: {{engine: {{{one}}}}}" for number, one in enumerate(differences))
    text = SCENARIO[: SCENARIO.index("engine:")]
    text += f"engine: {{{engine}}}\ncompare:\n  reference: v0\n  variants:\n{variants}\n"
    file.write_text(text, encoding="utf-8")
    return [one.scenario.engine for one in sim.load_scenario(str(file)).variants]


def test_keys_of_a_batching_leave_with_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = GENERIC_KEYS | {"watermark", "static_returns"}
    monkeypatch.setitem(BATCHING, "recipe_policy", PolicyBatching(policy=recipe_policy, keys=keys))
    mine, theirs = "batching: recipe_policy", "batching: continuous"
    kept, left = engines_of(file, f"{mine}, watermark: 0.25", "max_num_seqs: 9", theirs)
    assert (kept.watermark, left.watermark) == (0.25, 0.0)
    understood, left = engines_of(file, "batching: static, static_returns: at_end", mine, theirs)
    assert (understood.static_returns, left.static_returns) == ("at_end", "streamed")
    with pytest.raises(ScenarioError, match="watermark with batching: recipe_policy"):
        engines_of(file, theirs, "max_num_seqs: 9", "watermark: 0.25")
    with pytest.raises(ScenarioError, match="a later --set takes it away"):
        run(file, "engine.batching=recipe_policy", "engine.watermark=0.25", "engine.batching=continuous")


class ReservingKV(PagedKV):
    """A dummy that understands a key of another's."""

    keys: ClassVar[frozenset[str]] = frozenset({"kv_reservation"})


def test_keys_of_a_kv_allocator_leave_with_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KV_ALLOCATORS, "recipe_kv", ReservingKV)
    mine, paged = "kv_allocator: recipe_kv", "kv_allocator: paged"
    understood, left = engines_of(file, "kv_allocator: contiguous, kv_reservation: pow2", mine, paged)
    assert (understood.kv_reservation, left.kv_reservation) == ("pow2", "max")
    with pytest.raises(ScenarioError, match="kv_allocator: contiguous or recipe_kv"):
        engines_of(file, paged, "max_num_seqs: 9", "kv_reservation: pow2")


def recipe_routing(loads: Sequence[int], count: int) -> int:
    """Always the last replica."""
    return len(loads) - 1


def test_a_routing_is_obeyed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUTING, "recipe_routing", Routing(doc="always the last", choose=recipe_routing))
    for batching in ("continuous", "vllm"):
        settings = ("replicas=3", "routing=recipe_routing", f"engine.batching={batching}")
        assert (run_all_ways(file, *settings).requests.replica == 2).all()
    schema = str(scenario_schema())
    assert "recipe_routing" in schema and "always the last" in schema
    assert "recipe_routing" in page(file, "replicas=3", "routing=recipe_routing")


def test_a_vllm_release_is_an_entry(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(VERSIONS["0.20.0"], missing=frozenset({"watermark"}))
    monkeypatch.setitem(VERSIONS, "0.21.0", mine)
    settings = ("engine.batching=vllm", "engine.vllm_version=0.21.0", "engine.async_scheduling=false")
    old = run(file, *settings[:1], "engine.vllm_version=0.20.0", "engine.async_scheduling=false")
    assert_equal(run_all_ways(file, *settings), old)
    assert "0.21.0" in str(scenario_schema())
    with pytest.raises(ScenarioError, match=r"vLLM 0.21.0 has no such setting"):
        run(file, *settings, "engine.watermark=0.1")
