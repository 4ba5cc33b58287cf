"""Checks of what a run needs against this machine, before any work and any folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checks.data_check import check_data
from harness.checks.doctor import requirements
from harness.checks.findings import Problem
from harness.checks.needs import GPU_FROM, loads
from harness.checks.weights import missing_raters, missing_weights, unfit_raters, unreadable_weights
from harness.errors import InputError, PrerequisiteError
from harness.estimate import gigabytes
from harness.models.context import folder_config
from harness.models.role_model import RoleModel
from harness.models.rope import rope_switch
from harness.resolve import machine
from harness.resolve.role_models import embedder_model, raters_of_signals, role_models, trained_role
from harness.training.policy import policy_training

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.costs.records import Load
    from harness.stage import Stage


def check_prerequisites(config: RunConfig, stages: Sequence[Stage]) -> list[Problem]:
    """The problems of this machine for a run of these stages. Reads its documents and items, no weights, no network.

    A GGUF file that is to be converted has its architecture looked up in transformers, which takes seconds. Raises
    `InputError` for documents and items that a run could not use.
    """
    found, embedder = role_models(config), embedder_model(config)
    models = list(found.values())
    if (documents := check_data(config)) is not None:
        for lack in filter(None, (stage.lacks(documents) for stage in stages)):
            raise InputError(lack)
    return [
        *_missing_packages(embedder),
        *_missing_data(config),
        *_missing_services(config),
        *missing_weights([*models, *([embedder] if embedder else [])]),
        *missing_raters(raters_of_signals(config)),
        *unfit_raters(raters_of_signals(config)),
        *unreadable_weights(models),
        *_two_sides(config, found),
        *_missing_memory(models, loads(config, stages)),
        *_missing_disk(config, models),
    ]


def require_prerequisites(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Raise `PrerequisiteError` naming everything that `check_prerequisites` found."""
    problems = check_prerequisites(config, stages)
    if problems:
        raise PrerequisiteError(describe_problems(config, problems))


def describe_problems(config: RunConfig, problems: Sequence[Problem]) -> str:
    """One message for all problems, a line each."""
    head = f"this machine cannot run --method {config.method} --target {config.target}"
    return "\n".join([f"{head}; nothing was started:", *(f"  - {p}" for p in problems)])


def _missing_packages(embedder: RoleModel | None) -> list[Problem]:
    missing = [r for r in requirements() if machine.package_version(r.name) is None]
    problems = [Problem(f"package {r.name}", str(r), "not installed", f"pip install '{r}'") for r in missing]
    runs = embedder is not None and embedder.kind in ("hub", "folder")
    if runs and machine.package_version("sentence-transformers") is None:
        fix = "pip install 'harness[embed]', or --set models.embedder.id=lexical"
        problems.append(Problem("package sentence-transformers", "the embedder runs on it", "not installed", fix))
    return problems


def _missing_data(config: RunConfig) -> list[Problem]:
    """Data sets that would have to be downloaded where downloads are forbidden; files must be there in any case."""
    from evals.catalogue import load_suite
    from evals.read import DataContext, find_source
    from harness.synthesis.tables import find_tables

    names: list[tuple[str, str]] = []
    found = find_tables(config.seeds.tables)  # looks at names alone, and whether files are there
    names += [("seeds", table.split(":")[0]) for table in found if not Path(table).exists()]
    suite = load_suite(config.suite)
    guide = suite.validation_set(config.guide.set)
    tables = [(b.id, b.rows) for b in suite.benchmarks if b.scorer == "lm_eval"]
    tables += [(b.id, b.pool) for b in suite.benchmarks if b.scorer == "lm_eval" and b.pool]
    if (name := config.seeds.training_set) is not None:
        tables.append(("seeds", suite.training_set(name).rows))
    for what, rows in [*tables, (f"guide {guide.name}", guide.rows)]:
        source, _ = find_source(rows, what, DataContext(), suite.folder)
        if source.hub:
            names.append((what, source.hub))
    if not machine.hub_offline():
        return []
    absent = {name: what for what, name in reversed(names) if not machine.cached_data(name)}
    fix = "unset HF_HUB_OFFLINE, or put local copies into the folder that HARNESS_DATA names"
    return [
        Problem(f"data of {what}", name, "not in the cache and downloads are off", fix) for name, what in absent.items()
    ]


def _missing_services(config: RunConfig) -> list[Problem]:
    """Keys that no variable holds, and a vLLM that would have to be started and is not installed."""
    from harness.models.access import key_of
    from harness.models.vllm.command import find_python

    problems = []
    for role in config.model_roles[1:]:
        model = config.models.of(role)
        try:
            if model.served:
                key_of(model, role)
            if model.backend == "vllm" and model.base_url is None:
                find_python(config.runtime.vllm)
        except PrerequisiteError as error:
            what, _, fix = str(error).partition("; ")
            problems.append(Problem(f"server of the {role}", "a key or vLLM" if model.key_env else "vLLM", what, fix))
    return problems


def _two_sides(config: RunConfig, models: Mapping[str, RoleModel]) -> list[Problem]:
    """Rollouts that could lie on both sides of a length from which the policy's RoPE takes other frequencies."""
    role = trained_role(config)
    if role is None:
        return []
    folder = models[role].folder
    switch = rope_switch(folder_config(folder)) if folder else None
    length = config.drafter.max_length
    if switch is None or length <= switch.boundary:
        return []
    need = f"prompt and completion within {switch.boundary} tokens, as GRPO computes rollouts together,"
    fix = f"--set models.{role}.max_length={switch.boundary}, which shortens longer documents"
    return [Problem(f"RoPE of the {role} ({switch.kind})", need, f"models.{role}.max_length is {length}", fix)]


_SMALLER = "lower synthesis.shard_size (what a model in the process samples at once) or runtime.batch_size"


def _missing_memory(models: Sequence[RoleModel], needed: Sequence[Load]) -> list[Problem]:
    big = [m for m in models if m.shape and m.shape.parameters >= GPU_FROM]
    peak = max(needed, key=lambda load: load.bytes, default=None)
    if peak is None:
        return []
    detail = " + ".join(f"{p.role} {p.what} {gigabytes(p.bytes)}" for p in peak.parts)
    visible = machine.gpus() if big else ()
    if big:
        best = max((g.free for g in visible), default=0)
        if best >= peak.bytes and machine.torch_cuda():
            return []
        have = ", ".join(f"{g.name} with {gigabytes(g.free)} free" for g in visible) or "no GPU here"
        fix = f"choose smaller models (--set models.generator.id=...), {_SMALLER}, or rehearse with --target nano"
        if best >= peak.bytes:
            have, fix = f"{have}, but a CPU build of torch", "install a CUDA build of torch"
        return [Problem("GPU memory", f"{gigabytes(peak.bytes)} on one GPU in {peak.name} ({detail})", have, fix)]
    available = machine.memory()[1]
    if available >= peak.bytes:
        return []
    fix = f"{_SMALLER}, or use a machine with more"
    return [
        Problem("memory", f"{gigabytes(peak.bytes)} in {peak.name} ({detail})", f"{gigabytes(available)} free", fix)
    ]


def _missing_disk(config: RunConfig, models: Sequence[RoleModel]) -> list[Problem]:
    """Two checkpoints of the trained policy with Adam's moments, and the fine-tuned target with its checkpoints.

    All in float32: 12 bytes a parameter in a checkpoint, 4 in what is left. An adapter's policy is merged.
    """
    target = models[0]
    need = 50_000_000 + (28 * target.shape.parameters if target.shape and config.sft.tune == "full" else 0)
    training = policy_training(config.driver)
    model = next((m for m in models if m.role == trained_role(config)), None)
    if training is not None and model is not None and model.shape:
        need += (28 if training.lora is None else 4) * model.shape.parameters
    runs = Path(config.runtime.runs)
    free = machine.disk_free(runs)
    problems = []
    if not machine.writable(runs):
        problems.append(Problem(f"runs folder {runs}", "permission to write", "not given", "pass --runs DIR"))
    if free < need:
        problems.append(
            Problem(
                "disk",
                f"{gigabytes(need)} for checkpoints and models",
                f"{gigabytes(free)} free in {runs.absolute()}",
                "make room, or pass --runs DIR",
            )
        )
    return problems
