"""Screens that are not UTF-8, closed, full or left: readable text, and the exit status of the work."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.runtime.progress import Progress
from harness.screen import emit_json, prepare_screens, say, spelt
from support.made_runs import make_run

TEXT = "71 ± 4 → × ≥ “é” — │ε 漢"
ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "koi8-r", "utf-8")


class Screen(io.TextIOWrapper):
    """A screen of some encoding in memory."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict")

    @property
    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(params=ENCODINGS)
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Screen]:
    """Puts both streams on a screen; called by the test, since pytest puts its own there when a test begins."""

    def open_screen() -> Screen:
        made = Screen(request.param)
        monkeypatch.setattr(sys, "stdout", made)
        monkeypatch.setattr(sys, "stderr", Screen(request.param))
        return made

    return open_screen


def test_any_text_is_spelt_where_the_screen_has_no_letter_for_it(opened: Callable[[], Screen]) -> None:
    screen = opened()
    prepare_screens()
    say(TEXT + "\ud800")
    shown = screen.text.rstrip("\n")
    assert all(shown_as in shown for shown_as in ("71", " 4 ")) and shown.endswith("\\ud800")
    if screen.encoding == "utf-8":
        assert shown.startswith(TEXT)
    else:
        assert "\\u6f22" in shown
    if screen.encoding == "ascii":
        assert shown == '71 +/- 4 -> x >= "e" - |eps \\u6f22\\ud800'


def test_spellings_are_ascii() -> None:
    assert all(spelt(chr(code)).isascii() and spelt(chr(code)) for code in range(0xA0, 0x3000))
    assert (spelt("×"), spelt("→"), spelt("└"), spelt("ü"), spelt("漢")) == ("x", "->", "+", "u", "\\u6f22")


@pytest.mark.parametrize("command", ["show", "ls", "compare", "signals", "methods", "--help", "plan"])
def test_commands_end_well_on_every_screen(command: str, opened: Callable[[], Screen], tmp_path: Path) -> None:
    screen = opened()
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        make_run(runs, name, {"asked": [1, 1]}, {"asked": [0, 1]}, validity_flags=["rehearsal: “naïve” → ×"])
    arguments = {
        "show": ["show", "a", "--runs", str(runs)],
        "ls": ["ls", "--runs", str(runs)],
        "compare": ["compare", "a", "b", "--runs", str(runs)],
        "plan": ["plan", "--method", "static", "--target", "nano", "--scale", "smoke"],
    }.get(command, [command])
    assert main(arguments) == 0
    shown = screen.text
    assert len(shown) > 60
    if command == "show":
        sign = "±" if "±".encode(screen.encoding, "ignore") else "+/-"
        assert f"100.0 {sign} 0.0" in shown and "rehearsal" in shown
    if command == "ls" and screen.encoding == "latin-1":
        assert "50.0 -> 100.0" in shown


def test_json_is_json_on_every_screen(opened: Callable[[], Screen]) -> None:
    screen = opened()
    prepare_screens()
    emit_json({"text": TEXT + "😀"})
    assert json.loads(screen.text) == {"text": TEXT + "😀"}


def test_progress_on_every_screen_and_on_none(opened: Callable[[], Screen]) -> None:
    opened()
    prepare_screens()
    progress = Progress()
    progress.update("warm-up × 2", 1, 1, "→ done")
    assert isinstance(sys.stderr, Screen) and "1/1" in sys.stderr.text
    sys.stderr.close()
    progress.line("nobody reads this")


def test_progress_says_how_long_a_stage_has_left_at_the_rate_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step that this process sees on: a resumed stage does not count what another one did."""
    clock = iter((100.0, 100.0, 140.0, 140.0, 160.0, 160.0, 180.0, 180.0))
    monkeypatch.setattr("harness.runtime.progress.time.monotonic", lambda: next(clock))
    shown = io.StringIO()
    progress = Progress(shown)
    for done in (4, 6, 7, 8):
        progress.update("grpo", done, 8, "reward 1")
    assert shown.getvalue().splitlines() == [
        "  grpo: 4/8, reward 1",
        "  grpo: 6/8, reward 1, 40 s left",
        "  grpo: 7/8, reward 1, 20 s left",
        "  grpo: 8/8, reward 1",
    ]


def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_closed_and_full_screens() -> None:
    def close() -> None:
        for number in (0, 1, 2):
            os.close(number)

    assert run(["signals"], preexec_fn=close).returncode == 0
    with open("/dev/full", "wb") as full:
        done = run(["signals"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    assert (
        done.stderr.decode() == "harness: cannot write to standard output: No space left on device; send it elsewhere\n"
    )


def test_help_whose_reader_goes_away_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


def test_work_goes_on_where_its_readers_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress and the last words of a finished run are dropped, and raise nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as gone:
        progress = Progress(gone)
        for step in range(3):
            progress.update(f"stage {step}", 1, 1)
        say("the summary", gone)


def test_an_argument_that_is_no_text_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--method", "static", "--target", "nano", "--seeds", "donn\udce9es.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "donn\\udce9es.jsonl is not text in this locale's encoding" in said and said.count("\n") == 1
