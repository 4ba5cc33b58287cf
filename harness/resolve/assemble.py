"""From resolved settings to stages: the suite is loaded, a trained writer is found, the driver lays out the rest.

Nothing heavy is imported and nothing is written, so `plan` uses the same path as `run`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.catalogue import load_suite
from evals.suite import Suite
from harness.choice import stored_name
from harness.config import RunConfig
from harness.errors import ConfigError, InputError
from harness.record import Origin
from harness.resolve.provenance import origins
from harness.stage import Kind, Stage, ordered, read_summary, store_of
from harness.training.policy import policy_training
from methods.drivers.catalogue import driver_class, make_driver
from methods.plan import Plan
from methods.signals.catalogue import declares


@dataclass(frozen=True)
class Assembly:
    """A run laid out: its stages in order (inputs before users), the plan they were laid out from, and its suite.

    `upstream` are the earlier runs that it is made from.
    """

    plan: Plan
    suite: Suite
    stages: tuple[Stage, ...]
    upstream: tuple[Origin, ...] = ()

    def stage(self, name: str) -> Stage | None:
        """The stage called `name`, if the run has it."""
        return next((s for s in self.stages if s.name == name), None)

    def last(self, kind: Kind) -> Stage | None:
        """The last stage that leaves an output of this kind, if the run has one."""
        return next((s for s in reversed(self.stages) if s.kind == kind), None)

    def only(self, kind: Kind) -> Stage:
        """As `last`, for what every run has. Raises `ConfigError` where the driver lays out none."""
        stage = self.last(kind)
        if stage is None:
            raise ConfigError(f"driver '{self.plan.config.driver.name}' lays out no stage that leaves: {kind}")
        return stage

    @property
    def reads_validation(self) -> bool:
        """Whether the run's feedback, or that of a run which it is made from, reads labelled validation items."""
        return self.reads_itself or any(origin.reads_validation for origin in self.upstream)

    @property
    def reads_itself(self) -> bool:
        """Whether the run's own feedback reads labelled validation items."""
        used = [self.plan.config.signal] if driver_class(self.plan.config.driver.name).uses_signal else []
        if self.plan.config.select and self.plan.config.select.signal:
            used.append(self.plan.config.select.signal)
        return any(declares(signal, "reads_validation") for signal in used)

    @property
    def guided_columns(self) -> tuple[str, ...]:
        """Columns whose items, of any split, guided the run or what it is made from."""
        guide = self.plan.config.guide.set
        own = self.suite.guided_columns(guide) if self.reads_itself else ()
        return tuple(dict.fromkeys([*own, *(name for origin in self.upstream for name in origin.guided_columns)]))


def assemble(config: RunConfig) -> Assembly:
    """Lay a run out. Raises `ConfigError` or `InputError` for a suite, driver, prompt or writer that is not there."""
    suite = load_suite(config.suite)
    tests = load_suite(config.eval.suite) if config.eval.suite else None
    writer = _writer(config)
    policy = (writer[1].name, writer[1] / "policy") if writer else None
    plan = Plan(config, suite, policy, tests)
    _ = plan.route  # whose prompts and models are checked before any file is looked for
    if config.suite != "lab" and config.lab is not None:
        raise ConfigError(f"lab settings are given, but the suite is '{config.suite}'; drop 'lab', or use --suite lab")
    if policy_training(config.driver) is not None:
        _check_trained(config)
    stages = tuple(ordered(make_driver(config.driver).stages(plan, config.signal)))
    own = sum(stage.kind == "policy" for stage in stages)
    if config.iteration is not None and writer is None and own != config.iteration:
        raise ConfigError(
            f"--iteration {config.iteration}: driver '{config.driver.name}' trains {_models(own)}; leave it out, or "
            "name a run that trained as many with --writer-from"
        )
    return Assembly(plan, suite, stages, origins(config, writer))


def _check_trained(config: RunConfig) -> None:
    """Raise `ConfigError` where the model that the driver would train is not one whose weights are here."""
    role, backend = config.drafting_role, config.drafter.backend
    if backend == "openai":
        raise ConfigError(
            f"driver '{config.driver.name}' trains its {role}, and the weights behind models.{role}.base_url are not "
            f"here; set models.{role}.backend to transformers or vllm, or take a driver that trains nothing ('harness "
            "drivers')"
        )
    if backend == "extractive":
        raise ConfigError(
            f"driver '{config.driver.name}' trains the model that drafts, on route '{config.route.name}' the {role}, "
            f"and that is the extractive generator here, which has no weights; take another route, or set models.{role}"
        )


def _writer(config: RunConfig) -> tuple[Path, Path] | None:
    """The run whose trained writer is started from: its folder, and that of the stage which trained the writer."""
    if config.writer_from is None:
        return None
    from results.runs import find_run, load_run, stages_of

    folder = find_run(Path(config.runtime.runs), config.writer_from)
    names = stages_of(load_run(folder), "policy")
    if not names:
        raise InputError(f"run {folder.name} trained no writer; --writer-from needs a run of a driver that trains one")
    if config.iteration is not None and config.iteration > len(names):
        raise InputError(
            f"--iteration {config.iteration}: run {folder.name} trained {_models(len(names))}; give another"
        )
    name = names[-1 if config.iteration is None else config.iteration - 1]
    theirs = load_run(folder).manifest.get("settings", {}).get("route") or {"name": "rubric"}
    if stored_name(theirs) != config.route.name:
        raise ConfigError(
            f"run {folder.name} trained the model that drafts on route '{stored_name(theirs)}', and this run takes "
            f"route '{config.route.name}'; add --route {stored_name(theirs)}, or start from another run"
        )
    stage = store_of(folder.parent) / name
    if load_run(folder).record is not None and not stage.is_dir():
        raise InputError(
            f"the writer of run {folder.name} is not here: {stage} is missing; a run is moved with the folder "
            f"{stage.parent.name} beside it, or computed again with: harness resume {folder}"
        )
    if read_summary(stage) is None:
        raise InputError(f"run {folder.name} has not finished training its writer; resume it first")
    return folder, stage


def _models(count: int) -> str:
    return {0: "no model", 1: "one model"}.get(count, f"{count} models one from another")
