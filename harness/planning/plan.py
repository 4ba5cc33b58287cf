"""The plan of a run, before it does anything: meaning, stages, cost, memory, settings, deviations, what is missing.

A plan is computed from the settings alone: stages are assembled but not executed, nothing is downloaded, no folder is
made. `make_plan` gives the facts as a record, `render_plan` writes them for a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.checks.data_check import LAB_TESTS
from harness.checks.findings import Problem
from harness.checks.needs import loads, runs_on_gpu
from harness.checks.prerequisites import check_prerequisites
from harness.config import RunConfig
from harness.costs.estimator import Estimator
from harness.costs.lengths import decoding_batch, lengths
from harness.costs.records import Cost, Load
from harness.estimate import gigabytes
from harness.models.role_model import RoleModel
from harness.planning.costs import estimates, make_estimator
from harness.planning.lora_lines import lora_lines
from harness.planning.sizing import (
    Detectable,
    DeviceLine,
    Published,
    detectable,
    device_lines,
    dollars,
    published,
    tokens_by_model,
)
from harness.planning.speed import MachineSpeed, measure
from harness.planning.template_lines import template_lines
from harness.resolve.revisions import pin_revisions
from harness.resolve.role_models import decoding_set_aside, role_models, used_signals
from harness.resolve.targets import find_target
from harness.settings import Resolved, flatten
from methods.signals.catalogue import cautions

if TYPE_CHECKING:
    from evals.suite import Suite
    from harness.stage import Kind


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage: its identity, what it leaves, its estimated cost, and whether the store has it already."""

    name: str
    kind: Kind
    identity: str
    cost: Cost | None
    stored: bool


@dataclass(frozen=True, slots=True)
class Deviation:
    """A setting that is not what the paper or its released code has; None: that source says nothing."""

    key: str
    here: Any
    paper: Any
    code: Any
    note: str
    layer: str


@dataclass(frozen=True, slots=True)
class ResolvedSetting:
    """A resolved setting and the layer that set it."""

    key: str
    value: Any
    layer: str


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Everything that `harness plan` shows."""

    config: RunConfig
    meaning: tuple[tuple[str, str], ...]
    stages: tuple[StageLine, ...]
    loads: tuple[Load, ...]
    deviations: tuple[Deviation, ...]
    notes: tuple[str, ...]
    settings: tuple[ResolvedSetting, ...]
    problems: tuple[Problem, ...]
    tokens: Mapping[str, tuple[int, int]]
    usd: float | None
    here: MachineSpeed | None
    devices: tuple[DeviceLine, ...]
    detectable: Detectable
    published: tuple[Published, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON, with every setting."""
        return {
            "meaning": [{"name": name, "value": value} for name, value in self.meaning],
            "stages": [asdict(stage) for stage in self.stages],
            "memory": [{**asdict(load), "bytes": load.bytes} for load in self.loads],
            "deviations": [asdict(d) for d in self.deviations],
            "notes": list(self.notes),
            "settings": {s.key: {"value": s.value, "layer": s.layer} for s in self.settings},
            "tokens": {role: {"in": t[0], "out": t[1]} for role, t in self.tokens.items()},
            "usd": self.usd,
            "here": asdict(self.here) if self.here else None,
            "devices": [asdict(d) for d in self.devices],
            "detectable_difference": asdict(self.detectable),
            "published": [asdict(p) for p in self.published],
            "missing": [asdict(p) for p in self.problems],
            "first_failure": asdict(self.problems[0]) if self.problems else None,
        }


def make_plan(resolved: Resolved, replicates: int | None = None) -> PlanReport:
    """The plan of a run, and of `replicates` runs of each arm (the target's own number by default).

    Raises what `assemble` raises for settings that name something that is not there.
    """
    from harness.resolve.assemble import assemble
    from harness.stage import read_summary, stage_folder, store_of

    # With the commits that a run would pin, so that stages in the store are recognised.
    config = pin_revisions(resolved.config)
    assembly = assemble(config)
    suite, stages = assembly.suite, assembly.stages
    here = _here(config)
    estimator = make_estimator(config, here)
    costs = estimates(stages, estimator)
    store = store_of(config.runtime.runs)
    lines = tuple(
        StageLine(
            name=stage.name,
            kind=stage.kind,
            identity=stage.identity,
            cost=costs[stage.identity],
            stored=read_summary(stage_folder(store, stage)) is not None,
        )
        for stage in stages
    )
    values = dict(flatten(config.model_dump(mode="json")))
    settings = tuple(ResolvedSetting(key, value, resolved.origin.get(key, "default")) for key, value in values.items())
    deviations, notes = read_reference(config.method, settings)
    if config.warmup.adapter:
        deviations = tuple(d for d in deviations if not d.key.startswith("warmup."))
    to_do = [line.cost for line in lines if not line.stored]
    known = [cost for cost in to_do if cost]
    needed = loads(config, stages)
    return PlanReport(
        config=config,
        meaning=(*_meaning(config, suite, estimator), *(("made from", origin.line()) for origin in assembly.upstream)),
        stages=lines,
        loads=needed,
        deviations=deviations,
        notes=notes,
        settings=settings,
        problems=tuple(check_prerequisites(config, stages)),
        tokens=tokens_by_model(known),
        usd=dollars(known) if len(known) == len(to_do) else None,
        here=here,
        devices=device_lines(to_do, needed, here),
        detectable=detectable(
            config, suite, assembly.guided_columns, replicates or find_target(config.target).replicates
        ),
        published=tuple(
            published(
                _reference(config.method).get("costs", ()),
                {name: x.cost for x in lines if x.cost for name in (x.kind, x.name)},
            )
        ),
    )


def _here(config: RunConfig) -> MachineSpeed | None:
    """This machine, measured, where a run of models of known size would compute on its processor; else None."""
    models = role_models(config)
    target = models["target"]
    if target.kind == "lab" or target.shape is None or runs_on_gpu(list(models.values())):
        return None
    folder = target.folder
    if target.kind == "gguf":
        from harness.models.dequantise import converted_folder

        folder = converted_folder(target.id) if converted_folder(target.id).is_dir() else None
    last = [config.models.of(role) for role in config.route_roles[-1:]]
    together = decoding_batch(config, last[0]) if last else 1
    return measure(target.dtype, folder, target.shape, together, lengths(config).generator_prompt)


def _meaning(config: RunConfig, suite: Suite, estimator: Estimator) -> list[tuple[str, str]]:
    """The names of the run with what each resolves to."""
    measured = [b.id for b in suite.benchmarks if b.scorer == "lm_eval"]
    judged = [b.id for b in suite.benchmarks if b.scorer == "judge"]
    guide = suite.validation_set(config.guide.set)
    rows = [("suite", f"{suite.name}: {', '.join(measured)}")]
    if judged:
        rows.append(("", f"scored by a judge: {', '.join(judged)}"))
    there = config.guide.n or guide.count or guide.rows.expected_count or (config.lab and config.lab.validation_items)
    items = f"{there:,} items" if there else "all items"
    withheld = f", {config.guide.withhold:.0%} withheld from the reward" if config.guide.withhold else ""
    chosen = {"random": "", "coverage": f", by coverage ({config.guide.coverage})"}
    items += chosen.get(config.guide.strategy, ", by the capability tree")
    rows.append(("guide", f"{guide.name}: {items}{withheld}; guided columns: {', '.join(guide.guides) or 'none'}"))
    if config.route.name != "rubric":
        rows.append(("route", f"{config.route.name}: {config.route.plugin.summary}" if config.route.plugin else ""))
    rows += [(role.partition(":")[0], _model_line(model)) for role, model in role_models(config).items()]
    if config.warmup.adapter:
        rows.append(("warm-up", _given_line(config)))
    for role, asked in decoding_set_aside(config).items():
        wishes = ", ".join(f"{name} {value}" for name, value in asked.items())
        rows.append(("decoding", f"as the settings say; {role}'s own generation_config.json is not used ({wishes})"))
    rows += lora_lines(config)
    rows += template_lines(config)
    if estimator.embedder:
        rows.append(("embedder", _model_line(estimator.embedder)))
    judge = f"{config.models.judge or 'none named'}; its columns stay empty until it has scored them"
    rows.append(("judge", judge if judged else "none needed"))
    rows.append(("seeds", f"{', '.join(config.seeds.sources)}, {estimator.documents}"))
    if config.lab:
        rows.append(("lab", f"world {config.lab.world}, {config.lab.classes} classes of things"))
    if config.models.target.id.startswith("lab:") and suite.name != "lab":
        rows.append(("rehearsal", "the target is the lab's tiny model: the loop is real, scores will be near chance"))
    if config.seeds.source != "lab" and suite.name == "lab":
        rows.append(("caution", LAB_TESTS))
    rows += [("caution", line) for signal in used_signals(config) for line in cautions(signal)]
    if config.writer_from:
        which = f", iteration {config.iteration}" if config.iteration else ""
        rows.append(("writer from", config.writer_from + which))
    rows.append(("budget", f"{config.budget:,.0f} {config.match}, the same line for every arm"))
    rows.append(("seed", f"synthesis {config.synthesis_seed}, fine-tuning {config.tuning_seed}"))
    return rows


def _given_line(config: RunConfig) -> str:
    """The user's own checkpoints that take the warm-up's place."""
    from harness.training.adapters import given_checkpoints

    given = given_checkpoints(config.warmup.adapter)
    first = given[0]
    shape = f"LoRA rank {first.rank}, alpha {first.alpha:g} on {', '.join(first.modules)}"
    where = "; ".join(
        f"{g.folder} ({g.moments.name}{f', step {g.step}' if g.step else ''}, weight {g.weight:.3g})" for g in given
    )
    weights = f", weights by {first.weighted_by}" if len(given) > 1 else ""
    return f"not trained here: {shape}, from {where}{weights}"


def _model_line(model: RoleModel) -> str:
    if model.kind == "built-in":
        return f"{model.id}: built-in, no language model"
    if model.kind == "vectors":
        return f"{model.id}: given vectors, no model is run"
    if model.kind in ("endpoint", "service"):
        shape = f"{_parameters(model.shape.parameters)} parameters, " if model.shape else ""
        return f"{model.id}: {shape}behind an endpoint"
    size = (
        f"{_parameters(model.shape.parameters)} parameters, {gigabytes(model.weight_bytes or 0)} in {model.dtype}"
        if (model.shape)
        else "size not known"
    )
    absent = {"lab": "built on first use", "package": "its package is NOT on this machine"}
    here = "here" if model.folder else absent.get(model.kind, "NOT on this machine")
    return f"{model.id}: {size if model.shape or model.kind != 'lab' else 'tiny Qwen3'}, {here}"


def _parameters(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count / size < 1000 else f"{count / size:.0f}{unit}"
    return f"{count / 1e6:.2f}M"


def read_reference(method: str, settings: Sequence[ResolvedSetting]) -> tuple[tuple[Deviation, ...], tuple[str, ...]]:
    """The settings that leave the paper or its released code, by the method's `reference.yaml`; and its notes.

    What it says of the settings of the method's own driver and signal says nothing of others'.
    """
    from harness.resolve.registry import methods

    content = _reference(method)
    by_key = {s.key: s for s in settings}
    chosen = {place: by_key[f"{place}.name"].value for place in ("driver", "signal")}
    own = methods().get(method)
    others = tuple(f"{place}." for place, name in chosen.items() if own and name != getattr(own, place))
    rows = []
    for entry in content.get("values", ()):
        if entry["key"].startswith(others):
            continue
        setting = by_key[entry["key"]]
        paper, code = entry.get("paper"), entry.get("code")
        if any(said is not None and not same(setting.value, said) for said in (paper, code)):
            note = entry.get("note", "")
            rows.append(
                Deviation(key=setting.key, here=setting.value, paper=paper, code=code, note=note, layer=setting.layer)
            )
    return tuple(rows), tuple(content.get("notes", ()))


def _reference(method: str) -> Mapping[str, Any]:
    """A method's `reference.yaml`, or nothing."""
    from harness.resolve.registry import methods
    from harness.yaml_text import read_yaml

    folder = methods()[method].folder if method in methods() else None
    path = folder / "reference.yaml" if folder else None
    if path is None or not path.is_file():
        return {}
    content: Mapping[str, Any] = read_yaml(path, "the reference")
    return content


def same(value: Any, said: Any) -> bool:
    """Whether a resolved value is what a source says; YAML reads `1e-6` as text, hence the conversion."""
    if isinstance(value, bool) or isinstance(said, bool) or value is None:
        return bool(value == said)
    if isinstance(value, int | float):
        try:
            return abs(float(value) - float(said)) <= 1e-12 * max(1.0, abs(float(value)))
        except (TypeError, ValueError):
            return False
    return bool(value == said)
