"""vLLM on a CPU with tiny random models: a whole run whose writer and generator it serves, and what outlives a kill.

Random weights write no rubric and no pair by themselves; held to the JSON schema they write nothing else, so that every
part of the loop has something to do. Needs `make setup-vllm`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config_models import VllmConfig
from harness.errors import PrerequisiteError
from harness.models.vllm.command import Weights, find_python
from harness.models.vllm.server import VllmServer
from support.commands import Harness, events, finished, rows, run_folders, stage_folder
from support.tiny import make_tiny_model

pytestmark = [pytest.mark.server, pytest.mark.slow]

STEPS, PROMPTS, GROUP = 3, 4, 4
LENGTH = 1024
SMALL = VllmConfig(kv_cache_gb=1, max_num_seqs=32)

WRITER_PROMPT = "[user]\nText on {{domain}}: {{document}}\nWrite a rubric.\n"
GENERATOR_PROMPT = """[user]
Text: {{document}}
{{Prompt-related}} {{Response-related}} {{Prompt-Response alignment}} {{Technical/trainability aspects}}
Write a pair.
"""


@pytest.fixture(scope="module", autouse=True)
def vllm_is_here() -> None:
    try:
        find_python(SMALL)
    except PrerequisiteError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base", hidden=64, context=2048, printable=True)


def options(model: Path, base: Path, test_data: Path, **sets: Any) -> list[str]:
    """OptimSyn on real abstracts; writer, generator and target start from the same random weights."""
    for name, text in (("rubric.txt", WRITER_PROMPT), ("pair.txt", GENERATOR_PROMPT)):
        base.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text, encoding="utf-8")
    served = {
        f"models.{role}.{key}": value
        for role in ("writer", "generator")
        for key, value in {
            "id": model,
            "backend": "vllm",
            "max_length": LENGTH,
            "structured": "true",
            "structured_chars": 24,
        }.items()
    }
    settings = {
        **served,
        "models.target.id": model,
        "models.target.max_length": LENGTH,
        "synthesis.rubric_prompt": base / "rubric.txt",
        "synthesis.generator_prompt": base / "pair.txt",
        "synthesis.initial_samples": 12,
        "synthesis.writer.max_tokens": 320,
        "synthesis.generator.max_tokens": 320,
        "synthesis.shard_size": 12,
        "driver.generator.max_tokens": 320,
        "driver.max_tokens": 320,
        "driver.steps": STEPS,
        "driver.prompts_per_step": PROMPTS,
        "driver.group_size": GROUP,
        "driver.learning_rate": 2e-2,
        "driver.kl_coefficient": 0,
        "driver.max_grad_norm": 1.0,
        "driver.tune": "lora",
        "driver.lora_rank": 8,
        "driver.rollouts": "server",
        "driver.max_logprob_gap": 0.01,
        "seeds.limit": 40,
        "budget": 8,
        "sft.epochs": 1,
        "eval.limit": 4,
        "runtime.vllm.kv_cache_gb": 1,
        "runtime.vllm.max_num_seqs": 32,
        **sets,
    }
    return [
        *("run", "--method", "optimsyn", "--target", "nano", "--scale", "smoke", "--suite", "pubmedqa"),
        *("--guide", "cv:20", "--seeds", str(test_data / "seeds" / "pubmedqa_cv_contexts.jsonl.gz")),
        *("--runs", str(base / "runs"), *(w for key, value in settings.items() for w in ("--set", f"{key}={value}"))),
    ]


@pytest.fixture(autouse=True, scope="module")
def real_data(test_data: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_DATA", str(test_data))
        yield


def processes(mark: str) -> list[int]:
    """Processes of this machine, zombies apart, that have `mark` in their command line or belong to such a group."""
    found: dict[int, int] = {}
    groups: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()
            line = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if state[0] == "Z":
            continue
        found[int(entry.name)] = int(state[2])
        if mark in line and "openai.api_server" in line:
            groups.add(int(state[2]))
    return [pid for pid, group in found.items() if group in groups]


def test_a_killed_run_leaves_no_server_behind(model: Path, test_data: Path, tmp_path: Path) -> None:
    process = Harness(options(model, tmp_path, test_data), tmp_path)
    process.until(lambda: any("server_started" in _kinds(folder) for folder in run_folders(tmp_path / "runs")))
    assert processes(str(model))
    process.kill()
    deadline = time.monotonic() + 60
    while processes(str(model)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not processes(str(model))
    (run,) = run_folders(tmp_path / "runs")
    (started,) = [e for e in events(run) if e["event"] == "server_started"]
    assert started["version"]
    # The server's key is in no file of the run, its log included.
    assert "sk-" not in (run / "run.json").read_text(encoding="utf-8")


def _kinds(folder: Path) -> set[str]:
    return {event["event"] for event in events(folder)}


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A server that is already running, as far as a run is concerned."""
    config = SMALL.model_copy(update={"arguments": ("--served-model-name", "base", str(model))})
    started = VllmServer(Weights(str(model), "float32", None, LENGTH, 8), config, tmp_path_factory.mktemp("logs"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def run(server: VllmServer, model: Path, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished OptimSyn run over that server."""
    base = tmp_path_factory.mktemp("run")
    reach = {
        f"models.{role}.{key}": value
        for role in ("writer", "generator")
        for key, value in {"base_url": server.base_url, "key_env": "TEST_VLLM_KEY"}.items()
    }
    os.environ["TEST_VLLM_KEY"] = server.key
    try:
        finished(options(model, base, test_data, **reach), base)
    finally:
        del os.environ["TEST_VLLM_KEY"]
    (folder,) = run_folders(base / "runs")
    return folder


def test_the_whole_loop_ran(run: Path) -> None:
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    counts = {c["stage"]: c for c in record["counts"]}
    assert counts["grpo"]["rows_in"] == STEPS * PROMPTS * GROUP
    assert counts["dataset"]["kept"] == 8
    for stage in ("initial", "grpo", "regenerate"):
        count = counts[stage]
        assert count["rows_in"] == count["kept"] + sum(count["rejected"].values())
        # Held to the schema, a random model writes what parses; without it nothing would.
        assert count["kept"] >= 0.6 * count["rows_in"], count
    assert (run / "model" / "model.safetensors").exists()


def test_the_adapter_was_reloaded_and_served_what_was_trained(run: Path) -> None:
    sampled = [e for e in events(run) if e["event"] == "grpo_sampled"]
    assert [e["step"] for e in sampled] == list(range(STEPS))
    assert len({e["adapter"] for e in sampled}) == STEPS
    assert all(e["constrained"] and e["gap_mean"] < 1e-3 for e in sampled)


def test_the_servers_policy_has_changed(run: Path, server: VllmServer, model: Path) -> None:
    """What the server gives for the trained policy differs from its base, and is what the saved weights give."""
    from harness.models.transformers_backend import load_causal_lm
    from harness.training.rollouts import token_logprobs

    policy = stage_folder(run, "grpo") / "policy"
    server.load_adapter("after", policy / "adapter")
    prompt = list(range(40, 80))
    before, after = (_sample(server, name, prompt) for name in ("base", "after"))
    trained, _ = load_causal_lm(policy)
    untrained, _ = load_causal_lm(model)
    own = token_logprobs(trained, prompt, after["ids"], 1.0)
    assert after["logprobs"] == pytest.approx(own, abs=1e-3)
    base = token_logprobs(untrained, prompt, after["ids"], 1.0)
    assert max(abs(a - b) for a, b in zip(after["logprobs"], base, strict=True)) > 0.01
    assert before["logprobs"] == pytest.approx(token_logprobs(untrained, prompt, before["ids"], 1.0), abs=1e-3)


def _sample(server: VllmServer, name: str, prompt: list[int]) -> dict[str, Any]:
    body = {"model": name, "prompt": prompt, "max_tokens": 12, "seed": 1, "logprobs": 0, "return_token_ids": True}
    status, text = server._call("POST", "/v1/completions", body)
    assert status == 200, text
    (choice,) = json.loads(text)["choices"]
    return {"ids": choice["token_ids"], "logprobs": choice["logprobs"]["token_logprobs"]}


def test_the_ledger_says_where_the_time_went(run: Path) -> None:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        spent = {
            (role, model): seconds
            for role, model, seconds in db.execute(
                "SELECT role, CASE WHEN role = 'writer' THEN model ELSE '' END, SUM(seconds) FROM usage "
                "WHERE stage = 'grpo' GROUP BY 1, 2"
            )
        }
        calls = db.execute("SELECT role, stage, status, COUNT(*) FROM calls GROUP BY 1, 2, 3").fetchall()
    parts = {("writer", "policy sampling"), ("writer", "policy training"), ("generator", ""), ("target", "")}
    assert parts <= set(spent)
    assert all(seconds > 0 for seconds in spent.values())
    assert {(role, stage) for role, stage, _, _ in calls} == {
        (role, stage) for role in ("writer", "generator") for stage in ("initial", "grpo", "regenerate")
    }


def test_the_key_of_the_server_is_written_nowhere(run: Path, server: VllmServer) -> None:
    for path in [*run.rglob("*"), *(run.parent / ".stages").rglob("*"), server.log]:
        if path.is_file():
            assert server.key.encode() not in path.read_bytes(), path


def test_the_trained_writer_is_what_regenerates(run: Path) -> None:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        writers = {row[0] for row in db.execute("SELECT model FROM usage WHERE stage='regenerate' AND role='writer'")}
    assert all(name.endswith("(trained)") for name in writers)
    assert rows(stage_folder(run, "regenerate"))
