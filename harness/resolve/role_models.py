"""The models of a run's roles: what kind of name each has, whether its weights are here, its architecture.

Read from settings, the hub cache and the table of known models alone: nothing is loaded and no network is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import estimate
from harness.costs.lengths import CallLengths, Lengths
from harness.errors import PrerequisiteError
from harness.estimate import ModelShape
from harness.models.decoding import set_aside
from harness.models.gguf import read_header
from harness.models.known import known_shape
from harness.models.packaged import entry_of, gguf_path, is_gguf
from harness.models.role_model import RoleModel
from harness.resolve import machine
from harness.training.policy import policy_training
from harness.types import WorldId

if TYPE_CHECKING:
    from harness.config import ModelConfig, RunConfig, SignalChoice
    from harness.raters.declaration import RaterDeclaration

LAB_VOCABULARY = 1500
"""About how many tokens the lab's tokenizer has, for estimates before it is built."""


def locate(role: str, model: ModelConfig, world: WorldId | None, *, trained: bool = False) -> RoleModel:
    """A role's model: what kind of name it has, whether its weights are here, and its architecture.

    A model that is `trained` needs its weights here, whoever samples from it.
    """
    if model.backend == "extractive":
        return RoleModel(role=role, id=model.id, dtype=model.dtype, kind="built-in", folder=None, shape=None)
    if model.base_url and not trained:
        return RoleModel(
            role=role, id=model.id, dtype=model.dtype, kind="service", folder=None, shape=known_shape(model.id)
        )
    if model.id.startswith("lab:"):
        folder, shape = _lab_model(model.id.removeprefix("lab:"), world)
        return RoleModel(role=role, id=model.id, dtype=model.dtype, kind="lab", folder=folder, shape=shape)
    if is_gguf(model.id):
        return _gguf_model(role, model)
    path = Path(model.id).expanduser()
    if path.is_dir() or model.id.startswith((".", "/", "~")):
        here = path if machine.has_weights(path) else None
        return RoleModel(
            role=role,
            id=model.id,
            dtype=model.dtype,
            kind="folder",
            folder=here,
            shape=estimate.shape_from_folder(path),
        )
    folder = machine.cached_model(model.id, model.revision)
    shape = estimate.shape_from_folder(folder) if folder else None
    return RoleModel(
        role=role, id=model.id, dtype=model.dtype, kind="hub", folder=folder, shape=shape or known_shape(model.id)
    )


def _gguf_model(role: str, model: ModelConfig) -> RoleModel:
    """A GGUF file's model: its weights are here when the file is, converted or not."""
    try:
        path = gguf_path(model.id)
    except PrerequisiteError:
        return RoleModel(
            role=role, id=model.id, dtype=model.dtype, kind="package", folder=None, shape=entry_of(model.id).shape
        )
    return RoleModel(role=role, id=model.id, dtype=model.dtype, kind="gguf", folder=path, shape=read_header(path).shape)


def _lab_model(role: str, world: WorldId | None) -> tuple[Path | None, ModelShape | None]:
    from harness.lab.build import cache_root, lab_identity, shared_folder
    from harness.lab.world import World

    if role == "author":
        from harness.lab.author import author_folder

        author = author_folder(World.of(world))
        there = author.is_dir()
        return author if there else None, estimate.shape_from_folder(author) if there else _unbuilt_shape("generator")
    root, planted = cache_root(), World.of(world)
    home = root / f"world-{planted.id}-{lab_identity(planted)}"
    # The writer is shared by all worlds of a size.
    own = (home if role != "writer" else shared_folder(size=planted.size)) / role
    folder = own if own.is_dir() else None
    return folder, estimate.shape_from_folder(folder) if folder else _unbuilt_shape(role)


def _unbuilt_shape(role: str) -> ModelShape:
    """The architecture that a lab model will have; its vocabulary is only known when the tokenizer has been trained."""
    from harness.lab import build

    shape = {"writer": build.WRITER, "generator": build.GENERATOR, "target": build.TARGET}[role]
    return ModelShape(
        hidden=shape.hidden,
        intermediate=shape.inner,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        vocab=LAB_VOCABULARY,
        tied=True,
    )


def role_models(config: RunConfig) -> dict[str, RoleModel]:
    """The models of the run by role: the target, those that write on its route, and the other students."""
    world = config.lab.id if config.lab else None
    trained = {"target", trained_role(config), *config.models.student_roles}
    return {role: locate(role, config.models.of(role), world, trained=role in trained) for role in config.model_roles}


def way(
    config: RunConfig, sizes: Lengths, models: Mapping[str, RoleModel]
) -> tuple[tuple[CallLengths, RoleModel], ...]:
    """The calls of a draw on the run's route, each with its model: an answerer without one has the generator's."""
    route: Any = config.route.plugin
    return tuple((call, models.get(call.role) or models["generator"]) for call in route.calls(sizes))


def label_call(
    config: RunConfig, sizes: Lengths, models: Mapping[str, RoleModel]
) -> tuple[CallLengths, RoleModel] | None:
    """The call that labels a pair, once for each sample, and its model; None where pairs are not labelled."""
    if config.labels is None:
        return None
    question = max(1, sizes.pair // 4)
    answer = min(config.labels.max_tokens, max(1, sizes.pair - question))
    model = models.get("labeller") or models.get("generator")
    own = model or locate("labeller", config.models.of("labeller"), config.lab.id if config.lab else None)
    return CallLengths("labeller", question + sizes.template, answer), own


def decoding_set_aside(config: RunConfig) -> dict[str, dict[str, Any]]:
    """By role, what a model's own generation settings ask for and no run uses (`harness.models.decoding`)."""
    here = {role: set_aside(model.folder) for role, model in role_models(config).items() if model.folder}
    return {role: asked for role, asked in here.items() if asked}


def embedder_model(config: RunConfig) -> RoleModel | None:
    """The embedder's model, where something in the run embeds texts."""
    from harness.config import ModelConfig

    chooses, gates = config.guide.strategy != "random", "embedding" in config.decontam.modes
    labels = config.labels is not None and config.labels.group == "embedding"
    if not chooses and not gates and not labels and not any("embedder" in needs for needs in needs_of_signals(config)):
        return None
    own = config.models.embedder
    if own.kind == "sentence_transformers":
        return locate("embedder", ModelConfig(id=own.id, revision=own.revision, dtype=own.dtype), None)
    return RoleModel(
        role="embedder",
        id=own.id,
        dtype=own.dtype,
        kind="built-in" if own.kind == "lexical" else own.kind,
        folder=None,
        shape=None,
    )


def trained_role(config: RunConfig) -> str | None:
    """The role whose model the run's driver trains: the one that drafts on its route. None where it trains none."""
    return config.drafting_role if policy_training(config.driver) is not None else None


def used_signals(config: RunConfig) -> list[SignalChoice]:
    """The signals that the run scores with."""
    from methods.drivers.catalogue import driver_class

    used = [config.signal] if driver_class(config.driver.name).uses_signal else []
    if config.select:
        used.append(config.select.signal or config.signal)
    return [signal for at, signal in enumerate(used) if signal.chosen and signal not in used[:at]]


def needs_of_signals(config: RunConfig) -> list[frozenset[str]]:
    """The needs of each signal that the run uses."""
    from methods.signals.catalogue import signal_needs

    return [signal_needs(signal) for signal in used_signals(config)]


def raters_of_signals(config: RunConfig) -> list[RaterDeclaration]:
    """The quality raters that the run's signals ask, each once."""
    from methods.signals.catalogue import signal_raters

    every = [rater for signal in used_signals(config) for rater in signal_raters(signal)]
    return [rater for at, rater in enumerate(every) if rater not in every[:at]]
