"""What `--target` may be, what it resolves to, and which commit of a hub model is pinned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.checks.needs import loads
from harness.cli import main as cli
from harness.config import ModelConfig
from harness.errors import ConfigError, InputError
from harness.models.open import model_identity
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.resolve.revisions import pin_revisions
from harness.resolve.targets import find_target
from harness.runtime.run import run_name

COMMIT = "1a" * 20


def test_a_known_model_is_put_on_its_track() -> None:
    config = resolve_run(method="optimsyn", target="qwen3-14b").config
    assert (config.models.target.id, config.scale) == ("Qwen/Qwen3-14B-Base", "paper")
    assert (config.budget, config.models.writer.id) == (26000, "Qwen/Qwen3-8B")
    small = resolve_run(method="optimsyn", target="qwen3-1.7b").config
    assert (small.models.target.id, small.scale, small.budget) == ("Qwen/Qwen3-1.7B-Base", "small", 2000)
    assert resolve_run(method="optimsyn", target="qwen3-1.7b", scale="paper").config.budget == 26000


def test_a_track_is_a_target() -> None:
    track = resolve_run(method="optimsyn", target="paper").config
    model = resolve_run(method="optimsyn", target="qwen3-8b").config
    assert track.model_copy(update={"target": "qwen3-8b"}) == model


def test_short_names_serve_every_role() -> None:
    sets = {"models.writer.id": "qwen3-4b-instruct"}
    config = resolve_run(method="static", target="small", generator="qwen3-30b-a3b", sets=sets).config
    assert config.models.generator.id == "Qwen/Qwen3-30B-A3B-Instruct-2507"
    assert config.models.writer.id == "Qwen/Qwen3-4B"


def test_a_hub_id_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve_run(method="optimsyn", target="owner/Some-Model").config
    assert (config.models.target.id, config.models.target.max_length) == ("owner/Some-Model", 8192)
    assert "@Some-Model-0-" in run_name(config)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        find_target("./mine")
    (tmp_path / "mine" / "config.json").write_text('{"max_position_embeddings": 512, "dtype": "float32"}')
    config = resolve_run(method="optimsyn", target="./mine").config
    assert config.target == config.models.target.id == str(tmp_path / "mine")
    assert (config.models.target.max_length, config.models.target.dtype) == (512, "float32")
    assert "@mine-0-" in run_name(config)


def test_what_a_track_says_of_its_documents_goes_with_them(tmp_path: Path) -> None:
    own = resolve_run(method="static", target="small").config.seeds
    assert (own.text_field, own.domain, own.limit) == ("clean_text", "medicine", 2000)
    theirs = resolve_run(method="static", target="small", seeds="someone/laws").config.seeds
    assert (theirs.text_field, theirs.domain, theirs.licence, theirs.limit) == (None, "", "", None)
    again = resolve_run(method="static", target="small", sets={"seeds.source": "epfl-llm/guidelines:train"}).config
    assert again.seeds == own
    named = resolve_run(method="static", target="small", seeds="someone/laws", sets={"seeds.domain": "law"}).config
    assert named.seeds.domain == "law"


@pytest.mark.parametrize(("content", "says"), [("[]", "holds no settings"), ("{", "is not valid JSON")])
def test_a_folder_with_a_damaged_configuration_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        find_target(str(tmp_path))


def test_a_mistyped_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'qwen3-8b'"):
        find_target("qwen3-8")


def _cache(home: Path, model_id: str) -> None:
    store = home / ("models--" + model_id.replace("/", "--"))
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text(COMMIT)
    (store / "snapshots" / COMMIT).mkdir(parents=True)


def test_a_cached_model_is_pinned_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    resolved = resolve_run(method="optimsyn", target="qwen3-8b")
    assert pin_revisions(resolved.config) == resolved.config
    _cache(tmp_path, "Qwen/Qwen3-8B-Base")
    pinned = pin_revisions(resolved.config)
    assert (pinned.models.target.revision, pinned.models.writer.revision) == (COMMIT, None)
    assert COMMIT in model_identity(pinned.models.target, None)
    # A user's own pin is kept, and a commit stays itself.
    own = resolve_run(method="optimsyn", target="qwen3-8b", sets={"models.target.revision": "b" * 40}).config
    assert pin_revisions(own).models.target.revision == "b" * 40
    assert pin_revisions(pinned) == pinned


def test_a_run_file_resolves_to_itself(tmp_path: Path) -> None:
    from harness.settings import dump_yaml

    config = resolve_run(method="optimsyn", target="qwen3-1.7b").config
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(config))
    assert resolve_run(config_file=str(file)).config == config


def test_the_listing_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["targets", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert {t["name"] for t in value["tracks"]} == {"laptop", "nano", "small", "paper"}
    eight = next(m for m in value["models"] if m["name"] == "qwen3-8b")
    assert eight["memory_bytes"]["bfloat16"] == 2 * eight["parameters"] == 16_381_470_720


def test_the_small_track_fits_one_gpu() -> None:
    config = resolve_run(method="optimsyn", target="small").config
    assert max(load.bytes for load in loads(config, assemble(config).stages)) < 0.92 * 80e9


def test_settings_of_a_track_are_checked() -> None:
    # Unknown keys are refused; every track and model must pass.
    for name in ("nano", "small", "paper", "llama3-8b", "smollm2-135m"):
        assert resolve_run(method="static", target=name).config.target == name


@pytest.mark.parametrize("name", ["lab:target", "folder"])
def test_weights_in_another_type_are_other_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    where = str(tmp_path) if name == "folder" else name
    wide, narrow = (
        model_identity(ModelConfig.model_validate({"id": where, "dtype": dtype}), None)
        for dtype in ("float32", "bfloat16")
    )
    assert narrow == f"{wide}:bfloat16"
