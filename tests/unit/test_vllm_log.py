"""What a vLLM server's log says it died of."""

from __future__ import annotations

from pathlib import Path

from harness.models.vllm.server import last_error

CAUSE = "(EngineCore pid=1) ERROR 11-28 [core.py:15] RuntimeError: Unsupported CPU attention configuration"
AFTER = (
    "(APIServer pid=1) ERROR 11-28 [async_llm.py:9] vllm.v1.engine.exceptions.EngineDeadError: see above",
    'INFO:     127.0.0.1:36682 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error',
)


def test_the_last_error_is_the_cause_and_not_what_followed_from_it(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text("\n".join(["start", CAUSE, *AFTER]))
    assert last_error(log) == "RuntimeError: Unsupported CPU attention configuration"


def test_without_an_error_it_is_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text("start\nkilled\n")
    assert last_error(log) == "killed" and last_error(tmp_path / "none.log") == "no log"
