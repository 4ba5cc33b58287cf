"""The command line: quick help, one line for every mistake, exit statuses."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import pytest

from harness.cli import main as cli
from harness.cli.command import table
from harness.cli.lab import parse_worlds
from harness.cli.options import MATCHES, resolve_options
from harness.config import RunConfig
from harness.errors import ConfigError, StageError

HEAVY = ("torch", "transformers", "pydantic", "pandas", "yaml")


def run_cli(*arguments: str, **options: typing.Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["lab", "build", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from harness.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
    assert "usage: harness" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_front_page_names_every_command() -> None:
    page = cli.front_page()
    for _, commands in cli.GROUPS:
        for command in commands:
            assert f"\n  {command.name} " in page
            assert command.summary in page


def test_no_command_shows_the_front_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "First steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["run", "--metod", "x"], "unknown option '--metod'; did you mean '--method'?"),
        (["run", "--match", "sample"], "unknown --match 'sample'; did you mean 'samples'?"),
        (["run", "--budget", "many"], "invalid float value: 'many'"),
        (["run"], "name a method"),
        (["plan", "a.yaml", "b.yaml"], "unexpected argument 'b.yaml'"),
        (["run", "a.yaml", "--config", "b.yaml"], "two settings files are named"),
        (["run", "--method", "optimsin", "--target", "nano"], "did you mean 'optimsyn'?"),
        (["run", "--method", "optimsyn", "--target", "nanno"], "did you mean 'nano'?"),
        (["run", "--method", "optimsyn", "--target", "nano", "--signal", "influense"], "did you mean 'influence'?"),
        (["run", "--method", "optimsyn", "--target", "nano", "--set", "driver.stps=3"], "did you mean 'driver.steps'?"),
        (["run", "--method", "optimsyn", "--target", "nano", "--set", "driver.steps"], "expected KEY=VALUE"),
        (["plan", "--method", "optimsyn", "--target", "nano", "--seeds", "no.jsonl"], "file no.jsonl does not exist"),
        (["plan", "--method", "optimsyn", "--target", "nano", "--replicates", "0"], "at least one run of each arm"),
        (["doctor", "--set", "a=b"], "--set is for the check of a target"),
        (["doctor", "--signal", "influence", "--target", "nano", "--hub"], "--hub looks at the machine"),
        (["targets", "--foo"], "unknown option '--foo'; see 'harness targets --help'"),
        (["run", "missing.yaml"], "cannot read the config file missing.yaml"),
        (["resume"], "required: RUN"),
        (["resume", "nothing", "--runs", "no-runs-here"], "nothing"),
        (["compare", "one"], "two runs or more"),
        (["lab"], "required: ACTION"),
        (["lab", "build", "--worlds", "3-1"], "'3-1' is not a world or a range"),
        (["lab", "build", "--worlds", "0-99999999999"], "is not a world or a range"),
        (["lab", "build", "--worlds", "0-999999999"], "more than 10,000 worlds"),
        (["lab", "calibrate", "--worlds", "0", "--jobs", "9" * 20], "give a number from 1 to 1,000,000,000"),
        (["plan", "--method", "static", "--target", "nano", "--replicates", "9" * 20], "from 1 to 1,000,000,000"),
        (["plan", "--method", "static", "--target", "nano", "--guide", "asked:²"], "expected SET or SET:COUNT"),
        (["plan", "--method", "static", "--target", "nano", "--seed", "9" * 30], "setting 'seed'"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("harness: ")
    assert said in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def _fails_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.resolve.registry

    def fail() -> dict[str, object]:
        raise error

    monkeypatch.setattr(harness.resolve.registry, "methods", fail)


def test_a_designed_error_exits_with_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fails_with(StageError("the disk is full; make room"), monkeypatch)
    assert cli.main(["methods"]) == 3
    assert capsys.readouterr().err == "harness: the disk is full; make room\n"


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _fails_with(ZeroDivisionError("ours"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        cli.main(["methods"])


def test_interrupting_a_run_names_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import harness.runtime.run as run

    def interrupted(folder: object, *, quiet: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "create_run", lambda resolved, argv: run.RunFolder(tmp_path / "some-run", resolved.config))
    monkeypatch.setattr(run, "carry_out", interrupted)
    assert cli.main(["run", "--method", "static", "--target", "nano"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"harness resume {tmp_path / 'some-run'}")


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "signals"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(timeout=60), said) == (141, "")


@pytest.mark.parametrize("command", ["methods", "drivers", "routes", "signals", "targets", "suites"])
def test_listings_fit_the_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 100


def test_options_reach_the_settings() -> None:
    arguments = "run --method optimsyn --target nano --scale smoke --signal random --seed 7 --budget 12 --match samples"
    arguments += " --runs elsewhere --set driver.learning_rate=1e-3 --set driver.steps=4"
    resolved = resolve_options(cli.build_parser().parse_all(arguments.split()))
    c = resolved.config
    assert (c.signal.name, c.scale, c.seed, c.budget, c.runtime.runs) == ("random", "smoke", 7, 12, "elsewhere")
    assert (c.driver.settings.learning_rate, c.driver.settings.steps) == (1e-3, 4)
    assert resolved.origin["driver.learning_rate"] == "command line"


def test_options_not_given_leave_the_layers_alone() -> None:
    resolved = resolve_options(cli.build_parser().parse_all(["plan", "--method", "optimsyn", "--target", "nano"]))
    assert "command line" not in resolved.origin.values()


def test_match_choices_are_those_of_the_settings() -> None:
    assert set(MATCHES) == set(typing.get_args(RunConfig.model_fields["match"].annotation))


def test_worlds_are_lists_and_ranges() -> None:
    assert parse_worlds("0,3,5-7,5") == (0, 3, 5, 6, 7)
    with pytest.raises(ConfigError, match="'x' is not a world"):
        parse_worlds("1,x")


def test_tables_wrap_their_last_column() -> None:
    text = table(("name", "what"), [("a", "word " * 40)])
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[2].startswith("      word")


def test_version() -> None:
    assert run_cli("--version").stdout.startswith("harness 0.")
