"""Values of `--target`: a track with all its settings, a known model's short name, a hub id, a folder, a GGUF file.

A model is a target on the tracks of real models: the track gives the other models, the suite and the sizes, and is
chosen like any size, with `--scale`. Nothing is downloaded or loaded to resolve a name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, InputError, suggest
from harness.models.context import folder_context, model_context
from harness.models.gguf import read_header
from harness.models.known import KnownModel, by_id, is_hub_id, known_models
from harness.models.packaged import PREFIX, entry_of, gguf_path, is_gguf, model_id
from harness.resolve import machine
from harness.resolve.registry import TargetInfo, targets
from harness.settings import flatten, nest
from harness.texts import read_text

PRECISIONS = {"float32": 4.0, "bfloat16": 2.0, "8 bit": 1.0, "4 bit": 0.5}
"""Bytes per weight, scales of quantised formats left out. Runs train and score in the first two."""

CONTEXT = 8192
"""Most tokens that a model without an entry is given, where its own configuration does not allow fewer."""


def find_target(name: str) -> TargetInfo:
    """The target that `name` means. Raises `ConfigError` or `InputError` in one line."""
    tracks = targets()
    if name in tracks:
        return tracks[name]
    known = known_models()
    entry = known.get(name)
    if entry:
        return _on_tracks(name, _settings(model_id(name), entry), entry.track, tracks)
    if is_gguf(name):
        return _on_tracks(*_gguf_settings(name), tracks)
    path = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or path.is_dir():
        return _on_tracks(str(path.resolve()), _folder_settings(path.resolve()), "small", tracks)
    if is_hub_id(name):
        entry = by_id(name)
        return _on_tracks(name, _settings(name, entry), entry.track if entry else "small", tracks)
    near = suggest(name, [*tracks, *known])
    raise ConfigError(
        f"there is no target '{name}'{near if 'did you mean' in near else ''}; 'harness targets' lists the names, and "
        "a folder or a hub id such as owner/name may be given too"
    )


def listing() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tracks and models as plain records, with the bytes of a model's weights by precision."""
    tracks = [
        {
            "name": t.name,
            "suite": t.suite,
            "scales": list(t.scales),
            "default_scale": t.default_scale,
            "replicates": t.replicates,
            "summary": t.summary,
        }
        for t in targets().values()
    ]
    models = [
        {
            **{key: value for key, value in asdict(m).items() if key != "shape"},
            "parameters": m.shape.parameters,
            "active_parameters": m.shape.active_parameters,
            "memory_bytes": {name: int(m.shape.parameters * size) for name, size in PRECISIONS.items()},
            "architecture": asdict(m.shape),
        }
        for m in known_models().values()
    ]
    return tracks, models


def short_name(target: str) -> str:
    """A target as a part of a file name: the last part of a folder or hub id."""
    return target.rstrip("/").split("/")[-1]


def _settings(model_id: str, entry: KnownModel | None) -> dict[str, Any]:
    if entry is not None:
        return {"id": model_id, "dtype": "bfloat16", "max_length": entry.context}
    folder = machine.cached_model(model_id, None)
    own = folder_context(folder) if folder else None
    return {"id": model_id, "dtype": "bfloat16", "max_length": max(16, min(CONTEXT, own.tokens if own else CONTEXT))}


def _gguf_settings(name: str) -> tuple[str, dict[str, Any], str]:
    """A GGUF file's full name, its settings, and its track; its length limit is its own where that is shorter."""
    packaged = name.startswith(PREFIX)
    full = name if packaged else str(Path(name).expanduser().resolve())
    context = (entry_of(name).context if packaged else read_header(gguf_path(full)).context) or CONTEXT
    track = entry_of(name).track if packaged else "small"
    return full, {"id": full, "dtype": "bfloat16", "max_length": max(16, min(CONTEXT, context))}, track


def _folder_settings(path: Path) -> dict[str, Any]:
    """A local model: its length limit is its own where that is shorter."""
    try:
        config = json.loads(read_text(path / "config.json"))
    except OSError:
        raise InputError(
            f"the target {path} holds no config.json; name a folder that from_pretrained can load"
        ) from None
    except ValueError:
        raise InputError(f"{path}/config.json is not valid JSON; restore it") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}/config.json holds no settings of a model; restore it")
    context = model_context(config)
    limit = min(CONTEXT, context.tokens) if context else CONTEXT
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return {
        "id": str(path),
        "dtype": dtype if dtype in ("float32", "bfloat16") else "bfloat16",
        "max_length": max(16, limit),
    }


def _on_tracks(name: str, model: Mapping[str, Any], default: str, tracks: Mapping[str, TargetInfo]) -> TargetInfo:
    """A model as the target of every track of real models; the track is its scale."""
    real = {t.name: t for t in tracks.values() if t.lab is None}
    scales = {t.name: _without_target(t) for t in real.values()}
    home = real[default]
    return TargetInfo(
        name=name,
        summary=f"{model['id']}, on track {default}",
        suite=home.suite,
        default_scale=default,
        scales=scales,
        settings={"models": {"target": dict(model)}},
        lab=None,
        rehearsal=None,
        replicates=home.replicates,
    )


def _without_target(track: TargetInfo) -> dict[str, Any]:
    """A track's settings and size, without its own target; a type that its size computes in holds for any target."""
    own = {key: value for key, value in flatten(track.settings) if not key.startswith("models.target.")}
    return nest({**own, **dict(flatten(track.scales[track.default_scale]))})
