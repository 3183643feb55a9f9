"""Answers of the toy engine, and a text that would break a page which took it for markup."""

from __future__ import annotations

import dataclasses
from typing import Any

from toy_runs import toy_file, toy_results, toy_scenario

from sim.kinds.run import compare
from sim.results.answer import Answer
from sim.scenario.file import ScenarioFile
from sim.serving.records import RunResult
from sim.serving.summary import summarize

EVIL = "<script>window.owned = 1</script> & \"quotes\" 'too' | ` * `"


def answer_of(file: ScenarioFile, results: dict[str, list[RunResult]]) -> Answer:
    """The answer that ``run_scenario`` would have made of these runs."""
    summaries = {name: [summarize(run) for run in runs] for name, runs in results.items()}
    return Answer(
        file=file, results=results, summaries=summaries, comparison=compare(summaries, file.reference)
    )


def named_file(**changes: Any) -> ScenarioFile:
    """The toy file, with its hardware and model given by name."""
    file = toy_file(toy_scenario(**changes))
    return dataclasses.replace(file, raw={"hardware": "toy-gpu", "model": "toy-model"})


def toy_answer(**changes: Any) -> Answer:
    """Static against continuous on the toy engine."""
    file = named_file(**changes)
    return answer_of(file, toy_results(file))
