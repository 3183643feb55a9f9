"""ShareGPT: conversations in words. Their lengths are estimated, and they have no times.

As in vLLM's benchmark a request is the first turn of a conversation and its answer the second. No tokenizer
is at hand: a token is taken for four characters, about what English has under the tokenizers of today.
"""

from __future__ import annotations

from typing import Any

from sim.scenario.csv_files import TextFile
from sim.serving.workload.json_files import first_record, json_records
from sim.serving.workload.trace_rows import RawTrace, Row, TraceFormat, TraceKeys, raw_of_rows

CHARACTERS_PER_TOKEN = 4
_TURNS, _WHO, _SAID = ("conversations", "conversation", "messages"), ("from", "role"), ("value", "content")


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: at least one where there is any text."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _turns(record: object) -> list[Any] | None:
    found = [record.get(name) for name in _TURNS] if isinstance(record, dict) else []
    return next((turns for turns in found if isinstance(turns, list)), None)


def _is_sharegpt(file: TextFile, trace: TraceKeys) -> bool:
    return trace.columns is None and _turns(first_record(file)) is not None


def _said(turn: object) -> str:
    found = [turn.get(name) for name in _SAID] if isinstance(turn, dict) else []
    return next((text for text in found if isinstance(text, str)), "")


def _asks(turn: object) -> bool:
    who = [turn.get(name) for name in _WHO] if isinstance(turn, dict) else []
    return any(word in ("human", "user") for word in who)


def _read(file: TextFile, trace: TraceKeys) -> RawTrace:
    where, records = json_records(file)
    rows, left_out, later = [], 0, 0
    for place, record in zip(where, records, strict=True):
        turns = _turns(record)
        if turns is None:
            raise file.error(
                "the record has no conversations",
                place,
                given=", ".join(record),
                allowed='{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}',
            )
        first = next((k for k, turn in enumerate(turns[:-1]) if _asks(turn)), None)
        if first is None:
            left_out += 1  # nobody asks, or nobody answers
            continue
        asked, answered = _said(turns[first]), _said(turns[first + 1])
        rows.append(Row(place, None, estimated_tokens(asked), estimated_tokens(answered)))
        later += len(turns) > first + 2
    notes = [
        f"Lengths of {file.name} are estimated from its text: a token is {CHARACTERS_PER_TOKEN} characters."
    ]
    if later:
        notes.append(f"Of {later:,} conversations the first question and answer alone are played.")
    return raw_of_rows(file, rows, unit=None, left_out={"without question and answer": left_out}, notes=notes)


SHAREGPT = TraceFormat(
    doc="conversations as in ShareGPT: the first question and answer of each, a token for 4 characters; "
    "without times, so workload.arrivals says when",
    recognises=_is_sharegpt,
    read=_read,
)
