"""From resolved settings to stages: the suite is loaded, a trained writer is found, the driver lays out the rest.

Nothing heavy is imported and nothing is written, so `plan` uses the same path as `run`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.suite import Suite, load_suite
from harness.config import RunConfig
from harness.errors import ConfigError, InputError
from harness.stage import Stage, ordered, read_summary
from methods.drivers.catalogue import DRIVERS, make_driver
from methods.plan import Plan
from methods.signals.catalogue import SIGNALS


@dataclass(frozen=True)
class Assembly:
    """A run laid out: its stages in order (inputs before users), the plan they were laid out from, and its suite."""

    plan: Plan
    suite: Suite
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage | None:
        """The stage called `name`, if the run has it."""
        return next((s for s in self.stages if s.name == name), None)

    @property
    def reads_validation(self) -> bool:
        """Whether the run's feedback reads labelled validation items."""
        names = {self.plan.config.signal} if DRIVERS[self.plan.config.driver].uses_signal else set()
        if self.plan.config.select and self.plan.config.select.signal:
            names.add(self.plan.config.select.signal)
        return any(SIGNALS[n].spec.reads_validation for n in names if n in SIGNALS)

    @property
    def guided_columns(self) -> tuple[str, ...]:
        """Columns whose items, of any split, guided the run."""
        guide = self.plan.config.guide.set
        return self.suite.guided_columns(guide) if self.reads_validation else ()


def store_of(runs: str | Path) -> Path:
    """The stage store that the runs of a folder share."""
    return Path(runs) / ".stages"


def assemble(config: RunConfig) -> Assembly:
    """Lay a run out. Raises `ConfigError` or `InputError` for a suite, driver, prompt or writer that is not there."""
    suite = load_suite(config.suite)
    tests = load_suite(config.eval.suite) if config.eval.suite else None
    plan = Plan(config, suite, _policy(config), tests)
    if config.suite != "lab" and config.lab is not None:
        raise ConfigError(f"lab settings are given, but the suite is '{config.suite}'; drop 'lab', or use --suite lab")
    if DRIVERS[config.driver].trains and config.models.writer.backend == "openai":
        raise ConfigError(
            f"driver '{config.driver}' trains its writer, and the weights behind models.writer.base_url are not here; "
            "set models.writer.backend to transformers or vllm, or take a driver that trains nothing ('harness "
            "drivers')"
        )
    stages = tuple(ordered(make_driver(config.driver).stages(plan, config.signal)))
    return Assembly(plan, suite, stages)


def _policy(config: RunConfig) -> tuple[str, Path] | None:
    """The trained writer of another run: its stage's identity and its folder."""
    if config.writer_from is None:
        return None
    from results.runs import find_run, load_run

    folder = find_run(Path(config.runtime.runs), config.writer_from)
    stages = load_run(folder).manifest["stages"]
    name = stages.get("grpo")
    if name is None:
        raise InputError(f"run {folder.name} trained no writer; --writer-from needs a run of a driver that trains one")
    stage = store_of(folder.parent) / name
    if read_summary(stage) is None:
        raise InputError(f"run {folder.name} has not finished training its writer; resume it first")
    return name, stage / "policy"
