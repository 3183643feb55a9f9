"""What differs between vLLM releases, as named switches: one release is one entry of ``VERSIONS``.

The switches are the differences that the recordings of 0.33.0 and 0.20.0 (``gpuyard conformance``) show for
text-only decoder models; what no recording shows is named in ``sim.serving.vllm``.
"""

from __future__ import annotations

from sim.hardware.vllm_releases import version_of
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionProfile:
    """How one vLLM release decides where releases differ."""

    unhashed_blocks_to_front: bool
    """Freed blocks without a hash go to the front of the free queue; else every block to its tail."""
    lone_request_unthrottled: bool
    """``long_prefill_token_threshold`` is ignored while at most one request is there."""
    self_preemption_continues: bool
    """Priority: a request that preempts itself does not end the loop over the running ones."""
    pads_single_token_admissions: bool
    """With drafts, an admission that has one token to compute is padded with dummy drafts."""
    registers_drafted_blocks_in_update: bool
    """With drafts and synchronous scheduling, full blocks get their hash as soon as tokens are known."""
    missing: frozenset[str] = frozenset()
    """Settings that this release does not have."""


NOT_IN_0_20 = frozenset([
    "long_prefill_token_threshold_adaptive", "watermark", "prefill_schedule_interval", "max_num_active_seqs",
])  # fmt: skip

VERSIONS: dict[str, VersionProfile] = {
    "0.33.0": VersionProfile(
        unhashed_blocks_to_front=True,
        lone_request_unthrottled=True,
        self_preemption_continues=True,
        pads_single_token_admissions=True,
        registers_drafted_blocks_in_update=True,
    ),
    "0.20.0": VersionProfile(
        unhashed_blocks_to_front=False,
        lone_request_unthrottled=False,
        self_preemption_continues=False,
        pads_single_token_admissions=False,
        registers_drafted_blocks_in_update=False,
        missing=NOT_IN_0_20,
    ),
}


def recorded_release(version: str) -> str:
    """Whose decisions a release takes: its own where it was recorded, else the nearest recorded before it.

    A release older than all recordings takes the oldest one's.
    """
    if version in VERSIONS:
        return version
    asked = version_of(version) or (0, 0)
    older = [name for name in VERSIONS if (version_of(name) or (0, 0)) <= asked]
    return max(older or [min(VERSIONS, key=_number)], key=_number)


def _number(name: str) -> tuple[int, int]:
    return version_of(name) or (0, 0)
