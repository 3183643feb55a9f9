"""What every column of the records means, by kind, file and column.

``tests/tools/test_docs_reference.py`` runs a scenario of each kind and finds a column that is missing here,
and one that no longer exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """One table of records: what a row is, and its columns."""

    row: str
    columns: Mapping[str, str]


_REPLICA = "which replica"
_LAUNCH = "name of the launch"

COLUMNS: Mapping[str, Mapping[str, File]] = {
    "serving": {
        "requests": File(
            "a request, by id",
            {
                "request": "id, in the order of arrival",
                "class": "its class of `workload.classes`, or empty",
                "replica": f"{_REPLICA} it went to; empty where it never reached one",
                "status": "`finished`, `refused` (it can never fit), `aborted` (its client gave up), or "
                "`unfinished`",
                "is_measured": "false in the warm-up",
                "arrival_s": "when it arrived",
                "queue_s": "first scheduled - arrival",
                "ttft_s": "first output token - arrival",
                "ttft_from_admission_s": "first output token - first scheduled",
                "tpot_s": "(`e2e_s` - `ttft_s`) / (output tokens - 1), to the nearest picosecond; empty for "
                "answers of one token",
                "e2e_s": "last output token - arrival",
                "prompt_tokens": "tokens of its prompt",
                "output_tokens": "tokens that it asked for",
                "generated_tokens": "tokens that it got",
                "cached_tokens": "prompt tokens whose KV the prefix cache had",
                "num_preemptions": "how often it lost its KV blocks",
                "recompute_tokens": "tokens whose KV was computed once more because of that",
                "meets_slo": "whether it met every bound of the SLO; the column is there where an SLO is",
            },
        ),
        "segments": File(
            "a jump of the engine: steps that all follow from one decision",
            {
                "replica": _REPLICA,
                "start_s": "when its first step began",
                "end_s": "when its last step ended",
                "num_steps": "steps in it",
                "first_step_s": "how long its first step takes",
                "step_growth_s": "step j takes `first_step_s` + j × `step_growth_s`",
                "num_decode": "sequences that decode in each step",
                "decode_context_tokens": "tokens in their contexts together, in the first step",
                "num_prefill": "prompts, or chunks of prompts, in the step",
                "prefill_tokens": "prompt tokens computed in the step",
                "num_running": "requests that hold a place in the batch",
                "num_waiting": "requests that wait for one",
                "kv_tokens": "KV slots that hold a token",
                "kv_reserved": "KV slots kept for tokens that are still to come",
                "kv_internal": "KV slots lost inside blocks or reservations",
                "kv_external": "KV slots lost between reservations",
            },
        ),
        "preemptions": File(
            "an eviction",
            {
                "time_s": "when",
                "request": "who lost its blocks",
                "replica": _REPLICA,
                "recompute_tokens": "tokens that have to be computed again",
            },
        ),
    },
    "kernel": {
        "launches": File(
            "a launch",
            {
                "launch": _LAUNCH,
                "start_s": "when it began",
                "end_s": "when its last thread block ended",
                "repeats": "how many equal launches the row stands for",
                "num_blocks": "thread blocks in its grid",
                "blocks_per_sm": "thread blocks that fit an SM at a time",
                "sram_bytes_per_block": "SRAM that one holds",
                "hbm_read_bytes": "bytes that it asks of HBM",
                "hbm_write_bytes": "bytes that it writes to HBM",
                "compute_bound_s": "time in which arithmetic was what took longest",
                "memory_bound_s": "time in which HBM was",
                "latency_bound_s": "time in which neither was: the first bytes under way, a last wave",
            },
        ),
        "traffic": File(
            "a tensor of a launch",
            {
                "launch": _LAUNCH,
                "tensor": "Q, K, V, O, S, P, ... or the matrix of a GEMM",
                "read_bytes": "bytes of it that are read from HBM",
                "write_bytes": "bytes of it that are written to HBM",
            },
        ),
        "sram": File(
            "a change of what is resident",
            {"time_s": "when", "sram_bytes": "SRAM held by resident thread blocks, all SMs together"},
        ),
        "tiles": File(
            "a tile (with `trace: true`)",
            {
                "sm": "which SM",
                "block": "which thread block",
                "phase": "what the block does: its prologue, a tile, its end",
                "tile": "which tile of the block",
                "start_s": "when it began",
                "end_s": "when it ended",
            },
        ),
    },
    "training": {
        "workers": File(
            "a worker: where its time went",
            {
                "worker": "which worker",
                "num_steps": "steps that it took",
                "compute_s": "forward and backward passes",
                "data_stall_s": "waiting for its data loader",
                "wait_s": "waiting for others",
                "exchange_s": "exchange of gradients that nothing hides",
                "optimizer_s": "optimizer steps",
                "lost_s": "work lost to failures, and restarts",
                "slowdown": "its mean factor over a step of the fastest kind",
            },
        ),
        "updates": File(
            "an update of the parameters (the first million)",
            {
                "update": "which update",
                "time_s": "when it was applied",
                "slowest_worker": "for whom it waited; of synchronous schemes only",
            },
        ),
        "gradients": File(
            "an applied gradient (the first million); none where every update takes all workers' own",
            {
                "update": "which update it went into",
                "worker": "whose it was",
                "staleness_steps": "updates applied between its reading the parameters and this one",
            },
        ),
        "timeline": File(
            "a step of a worker (the first ones)",
            {
                "worker": "which worker",
                "step": "which of its steps",
                "release_s": "when it might begin",
                "compute_start_s": "when it began to compute",
                "compute_end_s": "when it had its gradient",
                "done_s": "when the exchange was over for it",
                "is_cancelled": "its gradient came too late and was thrown away (backup workers)",
            },
        ),
        "failures": File(
            "a failure",
            {
                "time_s": "when",
                "worker": "who failed",
                "lost_s": "work since the last checkpoint",
                "restart_s": "until it went on",
            },
        ),
        "scaling": File(
            "a number of workers (with `scaling:`)",
            {
                "num_workers": "how many",
                "gradients_per_s": "gradients a second, all workers together",
                "step_s": "time of a step",
                "exposed_comm_s": "exchange that nothing hides, a step",
                "stall_s": "waiting for others, a step",
                "efficiency": "gradients a second / (workers × what one alone makes)",
            },
        ),
    },
}
