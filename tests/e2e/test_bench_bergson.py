"""bergson as a contestant: what goes to its environment, what comes back, and what is said when that fails.

bergson is not among the test's packages, so a small program answers in its stead, or keeps the files that it was given.
"""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.bench import made, oracle
from harness.bench.bergson import bergson_scores, find_bergson
from harness.bench.influence import InfluenceBench, bench_influence
from harness.bench.influence_text import render_influence
from harness.cli.main import main
from harness.errors import PrerequisiteError, StageError
from harness.training.chat import Encoded
from methods.signals.influence.settings import InfluenceSettings
from support.influence_bench import TINY, plan
from support.influence_reference import assert_close

CANNED = """
import json
found = {{"seconds": [0.5, 0.25], "scores": {scores!r}, "torch": "2.9", "device": {device!r}}}
open(sys.argv[-1] + "/result.json", "w").write(json.dumps(found))
"""

Fake = Callable[[str], str]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(made.SHAPES, "tiny", TINY)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Makes a Python that says it has bergson 0.26.1, and runs the given program in place of the script."""

    def make(program: str) -> str:
        path = tmp_path / "python"
        lines = (
            f"#!{sys.executable}",
            "import sys",
            "if '-c' in sys.argv:",
            "    print('0.26.1')",
            "    raise SystemExit",
            program,
        )
        path.write_text("\n".join(lines), encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def test_its_environment_gets_our_model_samples_and_bounds(fake: Fake, tmp_path: Path) -> None:
    """What lies in the folder is enough for the definition's scores with plain gradients; our model stays as it is."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    bench, kept = InfluenceBench(plan()), tmp_path / "kept"
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    keep = f"import shutil; shutil.copytree(sys.argv[-1], {str(kept)!r})"
    bergson = find_bergson(fake(keep + CANNED.format(scores=[0.5, 0.25], device=bench.device)))
    got = bergson_scores(bergson, bench.model, bench.items, bench.validation, bench.plan.scoring, batch_size=7, turns=3)
    assert (bergson.version, got.seconds, got.scores, got.torch) == ("0.26.1", (0.5, 0.25), (0.5, 0.25), "2.9")

    task = json.loads((kept / "task.json").read_text(encoding="utf-8"))
    samples, validation = (
        [Encoded(tuple(i["ids"]), i["prompt"]) for i in task.pop(k)] for k in ("samples", "validation")
    )
    bounds = {"precision": "fp32", "batch_tokens": 64, "batch_size": 7, "turns": 3}
    assert task == {**bounds, "threads": torch.get_num_threads()}
    assert PeftConfig.from_pretrained(kept / "adapter").base_model_name_or_path.endswith("/base")
    base = AutoModelForCausalLM.from_pretrained(kept / "base")
    given = PeftModel.from_pretrained(base, kept / "adapter", is_trainable=True).to(bench.device)
    with bench.trainable():
        wanted = plain_cosines(bench.model, bench.items, bench.validation)
    assert_close(plain_cosines(given, samples, validation), wanted, 1e-5)
    assert set(before) == set(bench.model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in bench.model.state_dict().items())


def plain_cosines(model: Any, samples: list[Encoded], validation: list[Encoded]) -> list[float]:
    gradients = [[oracle.gradient(model, item) for item in items] for items in (samples, validation)]
    return oracle.scores(*gradients, None, InfluenceSettings(update="sgd"))


def test_its_row_stands_beside_the_others(fake: Fake) -> None:
    """Scores on another scale, the last two changed for each other: their rank correlation with ours is printed."""
    bench = InfluenceBench(plan(influence=InfluenceSettings(update="sgd")))
    scores = [3 * score for score in sorted(bench.engine().tolist())]
    order = bench.engine().argsort().argsort().tolist()
    scores[-1], scores[-2] = scores[-2], scores[-1]
    program = CANNED.format(scores=[scores[rank] for rank in order], device=bench.device)
    result = bench_influence(plan(bergson=fake(program)))
    rows = {row.name: row for row in result.rows}
    row, plain = rows["bergson 0.26.1"], rows["plain step"]
    assert row.samples == plain.samples == 8
    assert row.samples_per_second == pytest.approx(8 / 0.375)
    assert row.relative == pytest.approx(row.tokens_per_second / plain.tokens_per_second)
    assert row.high == pytest.approx(2 * row.low) and row.low < row.relative < row.high
    rank = 1 - 6 * 2 / (8 * (8**2 - 1))
    assert f"Spearman {rank:.4f}" in row.note and "not in turns" in row.note
    assert f"{row.name}: {row.note}" in render_influence(result).splitlines()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("sys.exit('loading\\nRuntimeError: no LoRA modules\\n')", "failed there: RuntimeError: no LoRA modules"),
        ("raise SystemExit(5)", "failed there: no message, exit status 5"),
        ("import os; os.kill(os.getpid(), 9)", "failed there: killed by signal 9"),
    ],
)
def test_a_failing_script_gives_its_last_line(fake: Fake, program: str, said: str) -> None:
    bench = InfluenceBench(plan())
    bergson = find_bergson(fake(program))
    one: list[Encoded] = bench.items[:1]
    with pytest.raises(StageError) as caught:
        bergson_scores(bergson, bench.model, one, one, bench.plan.scoring, batch_size=1, turns=1)
    assert str(caught.value).endswith(said) and "\n" not in str(caught.value)


def test_another_device_does_not_compare(fake: Fake) -> None:
    bench = InfluenceBench(plan())
    bergson = find_bergson(fake(CANNED.format(scores=[0.0], device="xpu")))
    one: list[Encoded] = bench.items[:1]
    with pytest.raises(PrerequisiteError, match=f"ran on xpu and the benchmark on {bench.device}"):
        bergson_scores(bergson, bench.model, one, one, bench.plan.scoring, batch_size=1, turns=1)


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("/nowhere/python", "cannot be started (No such file or directory)"),
        (sys.executable, "no bergson there (importlib.metadata.PackageNotFoundError: No package metadata"),
        ("/bin/true", "no bergson there (no message, exit status 0)"),
    ],
)
def test_a_python_without_bergson_gets_one_line(python: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "influence", "--bergson", python]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
