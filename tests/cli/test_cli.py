"""The command line: exit codes, what it prints where, and that results appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sim
from sim.cli.command import VERBS, main
from sim.model.config import load_model

CHECKOUT = Path(__file__).parents[2]

TINY = """\
schema_version: 1
question: Does paging help a tiny load?
kind: serving
seeds: [1, 2]
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 5}
  prompt_tokens: {distribution: uniform, min: 50, max: 200}
  output_tokens: {distribution: fixed, value: 20}
  num_requests: 100
engine: {max_num_seqs: 8, max_model_len: 1024}
slo: {ttft_s: 500 ms}
compare:
  reference: contiguous
  variants:
    contiguous: {engine: {kv_allocator: contiguous}}
    paged: {}
thresholds:
  - {variant: paged, metric: mean_ttft_s, max: 10 s}
"""


@pytest.fixture
def tiny(empty_folder: Path) -> str:
    (empty_folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    return "tiny.yaml"


def gpuyard(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "sim", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **more)  # type: ignore[call-overload,no-any-return]


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_help_imports_nothing_heavy() -> None:
    """So that it answers at once: no library, and no module of the simulator itself."""
    code = "import sys; from sim.cli.command import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & {"numpy", "pandas", "plotly", "simpy", "yaml", "scipy", "torch"}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert VERBS[verb].split(",")[0] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "gpuyard: VERB is missing\n  try: gpuyard --help\n"),
        (["runn"], "gpuyard: no such verb; did you mean run?\n  given: 'runn'\n  allowed: run, sweep, "),
        (["run"], "gpuyard: run: SCENARIO is missing\n  try: gpuyard run --help\n"),
        (["memory"], "gpuyard: memory: --model, --hardware are missing\n"),
        (["memory", "--model"], "gpuyard: --model: expected one argument\n  try: gpuyard memory --help\n"),
        (
            ["run", "x", "--sets", "a=1"],
            "gpuyard: run --sets: no such option; did you mean --set?\n  allowed: ",
        ),
        (["run", "x", "y"], "gpuyard: run: one word too many\n  given: 'y'\n"),
        (["run", "x", "--jobs", "many"], "gpuyard: --jobs: expected a whole number\n  given: 'many'\n"),
        (["list", "modles"], "gpuyard: kind: no such value; did you mean models?\n  given: 'modles'\n"),
    ],
)
def test_wrong_usage_reads_like_any_other_error(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(said)
    assert "usage:" not in printed.err


def test_all_unknown_options_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "x", "--parqet", "--foo"]) == 2
    said = capsys.readouterr().err
    assert "run --parqet: no such option; did you mean --parquet?" in said
    assert "run --foo: no such option\n" in said


def test_a_wrong_scenario_name_shows_the_nearest_not_all(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "backup_wokers"]) == 2
    said = capsys.readouterr().err
    assert "did you mean training/backup_workers?" in said
    assert "try: training/backup_workers or training/backup_workers_no_tail\n" in said
    assert "serving/closed_loop" not in said
    assert main(["run", "qqq"]) == 2
    assert "try: gpuyard list scenarios\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "name"),
    [("shapes/mine.json", "mine"), ("shapes/config.json", "shapes"), ("mine.json", "mine")],
)
def test_a_model_is_called_as_its_file_or_as_the_folder_of_its_config(
    empty_folder: Path, file: str, name: str
) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    shipped = CHECKOUT / "sim" / "_data" / "models" / "gpt2.json"
    Path(file).write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_model(file).name == name


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"gpuyard {sim.__version__}\n"


def test_run_answers_and_writes_the_report(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", tiny, "--jobs", "1"]) == 0
    printed = capsys.readouterr()
    assert "Does paging help a tiny load?" in printed.out
    assert "contiguous" in printed.out
    assert "out/tiny/report.html" in printed.err
    runs = [f"{variant}-{seed}" for variant in ("contiguous", "paged") for seed in (1, 2)]
    records = [f"{kind}-{run}.csv" for kind in ("requests", "segments", "preemptions") for run in runs]
    assert files_below(Path("out")) == sorted(
        f"tiny/{name}" for name in [*records, "report.html", "report.md", "summary.json"]
    )
    requests = Path("out/tiny/requests-paged-1.csv").read_text(encoding="utf-8").splitlines()
    assert len(requests) == 101
    summary = json.loads(Path("out/tiny/summary.json").read_text(encoding="utf-8"))
    assert [(run["variant"], run["seed"]) for run in summary["runs"]] == [
        ("contiguous", 1), ("contiguous", 2), ("paged", 1), ("paged", 2),
    ]  # fmt: skip


def test_the_same_run_gives_the_same_bytes_on_any_number_of_processes(tiny: str) -> None:
    for jobs in ("1", "2"):
        assert main(["run", tiny, "--jobs", jobs, "--out", f"jobs{jobs}", "--quiet"]) == 0
    names = files_below(Path("jobs1"))
    assert names == files_below(Path("jobs2"))
    for name in names:
        assert Path("jobs1", name).read_bytes() == Path("jobs2", name).read_bytes(), name


def test_a_missed_threshold_is_exit_code_1_and_still_an_answer(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", tiny, "--jobs", "1", "--no-report", "--set", "thresholds[0].max=1 ns"]) == 1
    assert "MISSED" in capsys.readouterr().out
    assert files_below(Path("out")) == ["tiny/summary.json"]


def test_a_new_run_replaces_the_old_one_and_touches_nothing_else(tiny: str) -> None:
    assert main(["run", tiny, "--jobs", "1", "--quiet"]) == 0
    Path("out/tiny/notes.txt").write_text("mine", encoding="utf-8")
    assert main(["run", tiny, "--jobs", "1", "--quiet", "--no-report", "--seeds", "7"]) == 0
    assert files_below(Path("out")) == ["tiny/notes.txt", "tiny/summary.json"]
    summary = json.loads(Path("out/tiny/summary.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in summary["runs"]] == [7, 7]


def test_set_changes_any_field(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["--set", "hardware=l4", "--set", "workload.num_requests=30"]
    assert main(["run", tiny, "--jobs", "1", "--quiet", "--no-report", "--json", "-", *overrides]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["hardware"] == "l4"
    assert {run["whole_run"]["num_offered"] for run in summary["runs"]} == {30}


def test_metrics_as_rows_vllm_s_view_and_a_trace(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    views = ["--csv", "rows.csv", "--json", "all.json", "--vllm-bench", "--trace-events"]
    assert main(["run", tiny, "--jobs", "1", *views]) == 0
    assert "============ Serving Benchmark Result ============" in capsys.readouterr().out
    assert len(Path("rows.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert Path("all.json").read_bytes() == Path("out/tiny/summary.json").read_bytes()
    bench = json.loads(Path("out/tiny/vllm-bench-paged-2.json").read_text(encoding="utf-8"))
    assert bench["completed"] == 100
    assert len(bench["ttfts"]) == 100
    trace = json.loads(Path("out/tiny/trace-paged-1.json").read_text(encoding="utf-8"))
    assert trace["traceEvents"]


def test_records_as_parquet(tiny: str) -> None:
    import pandas as pd

    assert main(["run", tiny, "--jobs", "1", "--quiet", "--parquet"]) == 0
    frame = pd.read_parquet("out/tiny/requests-paged-1.parquet")
    assert len(frame) == 100
    assert not list(Path("out/tiny").glob("requests-*.csv"))


def test_a_trace_takes_the_place_of_the_workload(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"2000-01-01 00:00:{second:02d}.0000000,100,10\n" for second in range(30))
    (empty_folder / "mine.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows, encoding="utf-8"
    )
    command = ["run", "serving/azure_conversation", "--trace", "mine.csv", "--no-report", "--json", "-"]
    assert main([*command, "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["whole_run"]["num_finished"] == 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "serving/closed_lop"], "closed_loop"),
        (["run", "tiny.yaml", "--set", "engine.max_num_seq=4"], "max_num_seqs"),
        (["run", "tiny.yaml", "--set", "engine"], "--set"),
        (["run", "tiny.yaml", "--seeds", "one"], "seeds"),
        (["run", "tiny.yaml", "--trace", "nowhere.csv"], "nowhere.csv"),
        (["run", "tiny.yaml", "--trace", "."], "this is a folder"),
        (["run", "tiny.yaml", "--trace", "/dev/null"], "no regular file"),
        (["run", "tiny.yaml", "--set", "hardware=."], "this is a folder"),
        (["run", "tiny.yaml", "--set", "model=."], "a folder without config.json"),
        (["run", "tiny.yaml", "--set", "hardware=h200"], "did you mean h200-sxm-141gb"),
        (["run", "tiny.yaml", "--set", "schema_version=2"], "this version of the format is not supported"),
        (["run", "tiny.yaml", "--set", "schema_version=1.0"], "this version of the format is not supported"),
        (["run", "tiny.yaml", "--set", "workload={}"], "changes nothing"),
        (["run", "tiny.yaml", "--set", "engine.max_num_seqs=1e30"], "try: 512"),
        (["run", "tiny.yaml", "--out", "tiny.yaml/below"], "--out: cannot be written"),
        (["sweep", "tiny.yaml", "--over", "foo=1,2"], "--over: foo: unknown field"),
        (["memory", "--model", "opt-13b", "--hardware", "l40s", "--block-size", "900000"], "at most"),
        (["memory", "--model", "opt-13b", "--hardware", "l40s", "--gpu-memory-utilization", "0.01"], "0.9"),
        (["run", "tiny.yaml", "--out", "tiny.yaml"], "tiny.yaml"),
        (["run", "tiny.yaml", "--csv", "rows.txt"], ".csv"),
        (["run", "tiny.yaml", "--json", "nowhere/all.json"], "nowhere/all.json"),
        (["sweep", "tiny.yaml", "--over", "replicas=2:1"], "--over"),
        (["sweep", "tiny.yaml", "--over", "replicas=1", "--executor", "ray://x"], "--executor"),
        (["check", "nowhere.yaml"], "nowhere.yaml"),
        (["check", "empty"], "empty"),
        (["show", "h100-sxm-80g"], "h100-sxm-80gb"),
        (["memory", "--model", "llama-3.1-9b", "--hardware", "l4"], "llama-3.1-8b"),
        (["memory", "--model", "llama-3.1-8b", "--hardware", "l5"], "l4"),
        (["memory", "--model", "llama-3.1-70b", "--hardware", "l4"], "no room for KV cache"),
        (["memory", "--model", "opt-13b", "--hardware", "l40s", "--tensor-parallel-size", "3"], "3"),
        (["memory", "--model", "opt-13b", "--hardware", "l40s", "--gpu-memory-utilization", "1.5"], "1.5"),
        (["memory", "--model", "opt-13b", "--hardware", "l40s", "--tokens", "0"], "--tokens"),
    ],
)
def test_wrong_input_is_one_error_and_no_result(
    tiny: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.startswith("gpuyard: ") or printed.err.startswith("error  ")
    assert files_below(Path()) == ["tiny.yaml"]


def test_an_interrupted_run_leaves_nothing_behind(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.report.html.render_html", interrupted)
    assert main(["run", tiny, "--jobs", "1"]) == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert files_below(Path()) == ["tiny.yaml"]


def test_ctrl_c_on_a_terminal_ends_all_processes_quietly(tiny: str, empty_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sim",
        "run",
        tiny,
        "--jobs",
        "2",
        "--set",
        "workload.num_requests=400000",
    ]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=empty_folder, start_new_session=True
    )
    time.sleep(1.5)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "Traceback" not in said
    assert files_below(empty_folder) == ["tiny.yaml"]


def test_check_says_what_each_file_is(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = CHECKOUT / "sim" / "_data" / "models" / "llama-3.1-8b.json"
    profile = CHECKOUT / "hardware_profiles" / "l4.yaml"
    assert main(["check", tiny, str(model), str(profile)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok     tiny.yaml: scenario, 2 seeds x 2 variants (contiguous, paged)"
    assert "8.03 billion parameters" in lines[1]
    assert "NVIDIA" in lines[2]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", None, ["no such file", "looked for"]),
        ("t.csv", "TIMESTAMP,ContextTokens\n2024-05-10 00:00:00,7\n", ["no column for output_tokens"]),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,seven,7\n", ["line 2"]),
        ("t.csv", "at,long\n1,2\n", ["no column for prompt_tokens", "(named by scenario.yaml)"]),
        ("t.jsonl", '{"timestamp": 0, "input_length": 9, "output_length": 1', ["line 1"]),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,7,7\n", []),
    ],
)
def test_check_reads_the_trace_that_a_scenario_names(
    name: str, text: str | None, words: list[str], empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = TINY.split("workload:")[0]
    Path("scenario.yaml").write_text(f"{head}workload: {{trace: {{path: {name}}}}}\n", encoding="utf-8")
    if text is not None:
        Path(name).write_text(text, encoding="utf-8")
    assert main(["check", "scenario.yaml"]) == (2 if words else 0)
    told = capsys.readouterr()
    assert all(word in told.err for word in words), told.err
    assert told.out.startswith("ok ") is not bool(words)


def test_check_reads_the_lengths_that_a_scenario_names(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = "{distribution: empirical, file: lengths.csv, column: tokens}"
    text = re.sub(r"prompt_tokens: .*", f"prompt_tokens: {lengths}", TINY)
    Path("scenario.yaml").write_text(text, encoding="utf-8")
    Path("lengths.csv").write_text("tokens\n12\nmany\n", encoding="utf-8")
    assert main(["check", "scenario.yaml"]) == 2
    assert "lengths.csv" in capsys.readouterr().err
    Path("lengths.csv").write_text("tokens\n12\n99\n", encoding="utf-8")
    assert main(["check", "scenario.yaml"]) == 0


def test_check_goes_through_a_folder_to_its_end(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(TINY.replace("seeds: [1, 2]", "seeds: [1, 1]"), encoding="utf-8")
    Path("z.yaml").write_text(TINY.replace("max_num_seqs", "max_num_seq"), encoding="utf-8")
    assert main(["check", "."]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("ok     tiny.yaml")
    assert printed.err.count("error  ") == 2
    assert "max_num_seqs" in printed.err
    assert printed.err.endswith("2 with errors\n")


OTHERS = {
    ".venv/lib/config.json": '{"hidden_size": 1, "num_hidden_layers": 0}',
    "env/pyvenv.cfg": "home = /usr",
    "env/lib/config.json": '{"hidden_size": 1, "num_hidden_layers": 0}',
    ".git/x.yaml": "kind: serving\nquestion: ?\nhardware: none\n",
    ".github/workflows/ci.yml": "on: push\n",
    "node_modules/a/package.json": "{}",
    "out/a/summary.json": '{"runs": [], "model": {"hidden_size": 1, "num_hidden_layers": 2}}',
    "out/a/broken.json": "{",
    "mkdocs.yml": "site_name: x\nmarkdown_extensions: [!!python/name:a.b ]\n",
    "compose.yaml": "services:\n  vllm:\n    image: vllm/vllm-openai\n",
    "deployment.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: vllm}\n---\nkind: Service\n",
    "prices/price_table.yaml": "format: 1\ndevice: l4\nmodel: gpt2\n",
    "tokenizer.json": '{"vocab_size": 3, "model": {}}',
    "list.json": "[1, 2]",
}


def test_check_takes_of_a_folder_only_what_is_ours(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in OTHERS.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    assert main(["check", "."]) == 0
    printed = capsys.readouterr()
    assert printed.out == "ok     tiny.yaml: scenario, 2 seeds x 2 variants (contiguous, paged)\n"
    assert printed.err.startswith("passed over 8 YAML and JSON files below . that are no scenario")
    assert main(["check", "list.json"]) == 2  # named, it is checked whatever it is
    Path(tiny).unlink()
    assert main(["check", "."]) == 2
    assert "no scenario, profile or model in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "kind: servin\nquestion: How fast?\nhardware: l4\n"),
        ("a.yaml", "{schema_version: 1, kind: serving, question: How fast?}\n"),
        ("a.yaml", "schema_version: 1\nquestion: How fast?\nkind: [serving\n"),
        ("a.yaml", "base: l4\nhbm_byte: 4 GB\nhbm_bytes_per_s: 1 GB/s\n"),
        ("a.yaml", "name: x\noverheads: {steps: 1}\n"),
        ("board.yaml", "groups: {first: {max_median_eror: 0.1}}\n"),
        ("config.json", '{"model_type": "llama", "hidden_size": 4096}'),
        ("config.json", '{"model_type": "llama", "hidden_size": 4096'),
    ],
)
def test_check_finds_ours_in_a_folder_though_it_is_wrong(
    empty_folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / name).write_text(text, encoding="utf-8")
    assert main(["check", "."]) == 2
    assert capsys.readouterr().err.startswith(f"error  {name}")


def test_a_fresh_clone_with_what_is_made_in_it_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(CHECKOUT)]) == 0
    assert capsys.readouterr().out.count("ok     ") >= 150


def test_everything_shipped_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["scenarios", "hardware_profiles", "sim/_data/engine_profiles", "sim/_data/models"]
    assert main(["check", *(str(CHECKOUT / folder) for folder in folders)]) == 0
    checked = capsys.readouterr().out.splitlines()
    assert len(checked) >= 15 + 18 + 6 + 24


def test_memory_of_vllm_issue_22291(capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen2.5-7B, 3,072 tokens: 28 layers x 4 KV heads x 128 x 2 (K, V) x 2 B = 56 KiB a token, 168 MiB."""
    command = ["memory", "--model", "qwen2.5-7b", "--hardware", "l4", "--tokens", "3072"]
    command += ["--max-model-len", "8192"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "57,344 bytes (56 KiB) = 28 layers x 4 KV heads x head_dim 128 x 2 (K and V) x 2 B" in text
    assert "3,072 tokens: 176,160,768 B = 168.0 MiB = 0.16 GiB = 0.18 GB" in text
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["kv_bytes_of_tokens"] == 3072 * 57_344
    assert sum(line["bytes"] for line in content["lines"]) == content["kv_budget_bytes"]
    assert content["num_gpu_blocks"] == content["kv_budget_bytes"] // (16 * 57_344)


def test_memory_refuses_what_vllm_refuses_and_fits_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["memory", "--model", "qwen2.5-7b", "--hardware", "l4"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "one request of it needs 7.00 GiB" in said and "vLLM refuses to start" in said
    longest = int(re.search(r"at most ([\d,]+)", said)[1].replace(",", ""))  # type: ignore[index]
    assert main([*command, "--max-model-len", "-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_model_len"] == longest
    assert main([*command, "--fit", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["longest_that_fits"] == longest
    for one in content["fit"]:
        blocks = -(-one["tokens"] // 16)
        assert one["requests"] == (content["num_gpu_blocks"] - 1) // blocks >= 1
    assert main([*command, "--fit"]) == 0
    assert f"longest context       {longest:,} tokens" in capsys.readouterr().out
    assert main(["memory", "--model", "gpt2", "--hardware", "l4", "--max-model-len", "4096"]) == 2
    assert "above the 1,024 positions" in capsys.readouterr().err


def test_memory_of_windows_is_one_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """gemma-3-27b at 8,192 under 0.19: "about 4.7" at once by one account of its log, 4.46 by the 19.53 GiB
    of KV cache that another derived (3,590 blocks of 1.25 MiB each); by requests, tokens, blocks."""
    command = ["memory", "--model", "gemma-3-27b", "--hardware", "h100-sxm-80gb", "--max-model-len", "8192"]
    command += ["--gpu-memory-utilization", "0.95", "--vllm-version", "0.19.0", "--tokens", "8192", "--json"]
    assert main(command) == 0
    content = json.loads(capsys.readouterr().out)
    assert 19.53 * 1024 / (3590 * 1.25) < content["max_concurrency"] < 4.7
    assert content["kv_bytes_of_tokens"] == content["kv_bytes_per_full_request"]
    held = content["num_gpu_blocks"] * content["block_bytes"] / content["kv_bytes_of_tokens"]
    assert held == pytest.approx(content["max_concurrency"])


def test_memory_of_several_devices_and_sizes_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["memory", "--model", "llama-3.1-70b", "--hardware", "h100-sxm-80gb,h200-sxm-141gb"]
    command += ["--tensor-parallel-size", "1,4"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    starts = {(row["hardware"], row["tensor_parallel_size"]): row["starts"] for row in rows}
    assert starts == {
        ("h100-sxm-80gb", 1): False,
        ("h100-sxm-80gb", 4): True,
        ("h200-sxm-141gb", 1): False,
        ("h200-sxm-141gb", 4): True,
    }
    assert main(["memory", "--model", "llama-3.1-70b", "--hardware", "h100-sxm-80gb", "--json",
                 "--tensor-parallel-size", "4"]) == 0  # fmt: skip
    alone = json.loads(capsys.readouterr().out)
    assert rows[1]["kv_budget_bytes"] == alone["kv_budget_bytes"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "does not start: the model leaves no room for KV cache" in text and "h200-sxm-141gb" in text
    assert main([*command[:-1], "4,none"]) == 2
    assert "--tensor-parallel-size" in capsys.readouterr().err


def test_memory_of_other_engines(capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen3-32B with 2,048 sequences started under SGLang on 80 GB: vLLM's sampler is vLLM's."""
    command = ["memory", "--model", "qwen3-32b", "--hardware", "h100-sxm-80gb", "--max-num-seqs", "2048"]
    command += ["--max-model-len", "8192"]
    assert main([*command, "--profile", "sglang-0.5-h100"]) == 0
    text = capsys.readouterr().out
    assert "mem_fraction_static" in text and "[read]" in text and "[assumed]" in text
    assert main([*command, "--runtime", "tensorrt-llm", "--free-gpu-memory-fraction", "0.8"]) == 0
    assert "free_gpu_memory_fraction 0.8" in capsys.readouterr().out
    assert main([*command, "--mem-fraction-static", "0.8"]) == 2
    assert "has no effect with runtime: vllm" in capsys.readouterr().err
    assert main([*command, "--vllm-version", "0.5.3"]) == 2
    assert "0.6 to 0.33" in capsys.readouterr().err


def test_memory_takes_vllm_s_options(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["memory", "--model", "llama-3.1-70b", "--hardware", "h100-sxm-80gb", "--json"]
    sizes = []
    for more in (["--tensor-parallel-size", "4"], ["--tensor-parallel-size", "4", "--kv-cache-dtype", "fp8"]):
        assert main([*command, *more]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["kv_bytes_per_token"])
    assert sizes == [80 * 1024, 40 * 1024]  # 320 KiB a token over four GPUs, then half of it


@pytest.mark.parametrize(
    ("kind", "name", "shown"),
    [
        ("hardware", "h100-sxm-80gb", "3.35 TB/s"),
        ("models", "opt-13b", "819,200"),
        ("models", "Qwen/Qwen2.5-7B-Instruct", "32,768"),
        ("scenarios", "serving/closed_loop", None),
    ],
)
def test_list_and_show(kind: str, name: str, shown: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    assert name in (one := capsys.readouterr().out)
    assert main(["list"]) == 0
    assert one.strip() in capsys.readouterr().out
    if shown:
        assert main(["show", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)
        assert main(["show", name]) == 0
        assert shown in capsys.readouterr().out


def test_the_schema_accepts_every_shipped_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    import jsonschema

    from sim.scenario.shipped import scenario_paths
    from sim.scenario.strict_yaml import load_yaml

    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    validator = jsonschema.Draft202012Validator(schema)
    for path in scenario_paths():
        assert [error.message for error in validator.iter_errors(load_yaml(path))] == [], path.name
    assert list(validator.iter_errors({"kind": "serving"}))
