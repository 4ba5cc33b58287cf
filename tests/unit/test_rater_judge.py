"""Judgments by a model: both orders, position bias taken out, votes that are none, and the command with its account."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import InputError
from harness.models.backend import Completion, PromptRequest, Sampling
from harness.raters.judge import Tally, draw_pairs, judge_pairs
from harness.raters.judgments import read_judgments


def sides(prompt: str) -> tuple[int, int]:
    """The strengths of texts A and B, which are numbers in them."""
    found = re.search(r"Text A:\n.*?(\d+).*Text B:\n.*?(\d+)", prompt, re.DOTALL)
    assert found is not None
    return int(found[1]), int(found[2])


class Planted:
    """A judge that takes the larger number, the first text instead with probability `bias`, and says nothing at 13."""

    name, flops_per_token = "planted", 0.0

    def __init__(self, bias: float) -> None:
        self._bias, self._draw = bias, random.Random(0)

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        answers = []
        for request in requests:
            a, b = sides(request.messages[0].content)
            letter = "A" if self._draw.random() < self._bias or a > b else "B"
            text = "I cannot say, A or B." if 13 in (a, b) else f"{letter}."
            answers.append(Completion(text, "stop", 10, 2))
        return answers


def test_position_bias_is_taken_out_and_counted() -> None:
    tally = Tally()
    pairs = [("text 1 {b}", "text 2 {question}"), ("text 9", "text 4"), ("text 13", "text 5")]
    options = dict(votes=400, sampling=Sampling(), seed=0, tally=tally)
    judged = list(judge_pairs(Planted(0.3), pairs, {"size": "Which is larger?"}, **options))  # type: ignore[arg-type]
    # The better one wins every vote where it stands first and 70 % where it stands second.
    assert judged[0].p["size"] == pytest.approx(0.85, abs=0.04) and judged[1].p["size"] == pytest.approx(0.15, abs=0.04)
    assert judged[2].p["size"] is None and tally.undecided == 1
    assert (tally.votes, tally.valid) == (2400, 1600) and tally.first / tally.valid == pytest.approx(0.65, abs=0.03)
    assert tally.apart == pytest.approx([0.3, 0.3], abs=0.08) and tally.prompt_tokens == 24_000


def test_pairs_repeat_texts_late() -> None:
    texts = [f"t{i}" for i in range(10)]
    pairs = draw_pairs([*texts, "t0", " "], 5, 0)
    assert sorted(text for pair in pairs for text in pair) == texts
    assert draw_pairs(texts, 23, 0)[:5] == pairs and all(a != b for a, b in draw_pairs(texts, 23, 0))
    with pytest.raises(InputError, match="1 different texts make no pair"):
        draw_pairs(["a", "a"], 5, 0)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The URL of a chat server that takes the larger number, and the keys that it was sent."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            a, b = sides(body["messages"][0]["content"])
            keys.append(str(self.headers["Authorization"]))
            choice = {"message": {"role": "assistant", "content": "A" if a > b else "B"}, "finish_reason": "stop"}
            reply = {"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 1}}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", keys
    http.shutdown()
    http.server_close()


def test_the_command_writes_judgments_and_pays_once(
    tmp_path: Path,
    server: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, keys = server
    monkeypatch.setenv("JUDGE_KEY", "sk-planted")
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"text number {i}"}) + "\n" for i in range(20, 30)))
    own = ["rater", "judge", "--texts", str(texts), "--url", url, "--model", "m", "--to", str(tmp_path / "j.jsonl")]
    own += ["--pairs", "6", "--votes", "2", "--key-env", "JUDGE_KEY", "--price", "1,2"]
    own += ["--criterion", "size=Which one is larger?", "--criterion", "age=Which one is older?"]
    assert main(own) == 0
    said = capsys.readouterr().out
    assert "6 pairs, 48 of 48 votes valid, 0 without judgment" in said and "50.0 % of votes" in said
    judged = read_judgments(tmp_path / "j.jsonl")
    assert (judged.kind, judged.heads, len(judged.rows)) == ("pairs", ("size", "age"), 6)
    for row in judged.rows:
        a, b = (int(text.split()[-1]) for text in row.texts)
        assert row.values == ((1.0, 1.0) if b > a else (0.0, 0.0))
    assert len(keys) == 48 and set(keys) == {"Bearer sk-planted"}
    store = sqlite3.connect(tmp_path / "j.jsonl.ledger.sqlite")
    calls, tokens, usd = store.execute("SELECT COUNT(*), SUM(prompt_tokens), SUM(usd) FROM calls").fetchone()
    store.close()
    assert (calls, tokens) == (48, 2400) and usd == pytest.approx((2400 * 1 + 48 * 2) / 1e6)
    # The same again, as after a kill: nothing is asked twice.
    (tmp_path / "j.jsonl").rename(tmp_path / "first.jsonl")
    assert main(own) == 0 and len(keys) == 48
    assert (tmp_path / "j.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes()
    capsys.readouterr()
    assert main(own) == 2 and "is there already" in capsys.readouterr().err
    assert main([*own[:-1], "age", "--to", str(tmp_path / "k.jsonl")]) == 2
    assert "expected NAME=QUESTION" in capsys.readouterr().err
    assert main([*own, "--to", str(tmp_path / "k.jsonl"), "--price", "1"]) == 2
    assert "--price 1: expected dollars" in capsys.readouterr().err
