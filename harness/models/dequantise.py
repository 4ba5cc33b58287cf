"""An ordinary model folder made from a GGUF file, once a machine: weights in float32, tokenizer, chat template.

transformers reads the file and dequantises it; what is written here is what `from_pretrained`, PEFT, TRL and vLLM take
like any other folder. The numbers are those of the quantised file: what quantisation lost is lost. The folder's
`origin.json` says where it comes from.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from harness.cache import cache_home, make_once
from harness.config_models import ModelsConfig
from harness.errors import InputError
from harness.models.gguf import Header, read_header
from harness.models.packaged import gguf_path, header_of, is_gguf
from harness.shards import write_json
from harness.types import file_hash

CONVERSION = 1
"""Raised with every change that makes other weights or tokens of the same file."""

ORIGIN = "origin.json"


def gguf_identity(model: str) -> str:
    """The identity of the weights that a GGUF file is converted to: quantisation, content, and the conversion."""
    path = gguf_path(model)
    return f"{origin(read_header(path)).replace(' ', '-')}:{file_hash(path)}:{CONVERSION}"


def origin(header: Header) -> str:
    """A file's weights in words, such as `dequantised from Q4_1`."""
    return f"{'dequantised' if header.quantised else 'converted'} from {header.quantisation}"


def copies(models: ModelsConfig) -> list[str]:
    """A sentence for every model of these settings that comes from a GGUF file, for records, cards and screens."""
    roles: dict[str, list[str]] = {}
    for role in ("target", "writer", "generator", "answerer", "labeller"):
        model = getattr(models, role)
        if model is not None and is_gguf(model.id) and not model.base_url:
            roles.setdefault(model.id, []).append(role)
    return [
        f"{' and '.join(names)}: {Path(model).name} is {origin(header_of(model))}, not the weights that were published"
        for model, names in roles.items()
    ]


def converted_folder(model: str) -> Path:
    """The folder where a GGUF file's weights are or will be."""
    path = gguf_path(model)
    return cache_home() / "models" / f"{path.stem}-{file_hash(path)}-{CONVERSION}"


def unreadable(header: Header) -> tuple[str, str] | None:
    """The fault and its remedy where transformers does not read a file's architecture from GGUF; else None."""
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS}
    spelt = {name.replace("_", "") for name in known} | known
    if header.architecture in spelt or header.architecture.replace("-", "_") in known:
        return None
    return (
        f"architecture '{header.architecture}', which transformers does not read from GGUF files",
        "name the model's own folder or hub id",
    )


def ensure_converted(model: str) -> Path:
    """The folder of a GGUF file, made where the cache lacks it (half a minute for 135M parameters).

    Raises `InputError` for a file that cannot be converted, and what `make_once` raises.
    """
    path, folder = gguf_path(model), converted_folder(model)
    make_once(folder, lambda work: _convert(path, work))
    return folder


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.training.trainer import quiet_libraries

    quiet_libraries()
    header = read_header(path)
    named = {"gguf_file": path.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of its own
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **named)
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **named)
    except (ValueError, KeyError, RuntimeError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"transformers cannot convert {path}: {reason}; name the model's own folder or hub id"
        ) from None
    _settle(model, tokenizer, path)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / ORIGIN, {"file": path.name, "content": file_hash(path), "weights": origin(header)})
    # Weights are written for their owner alone, and a cache may be shared.
    folder.chmod(0o755)
    for written in folder.iterdir():
        written.chmod(0o644)


def _settle(model: Any, tokenizer: Any, path: Path) -> None:
    """Take off what would have the folder taken for a quantised one, and name what it was made from."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    # The file's own title stands where others look for a path.
    if hasattr(model.config, "_model_name_or_path"):
        del model.config._model_name_or_path
    model.config.name_or_path = path.name
    tokenizer.name_or_path = path.name
    tokenizer.init_kwargs.pop("gguf_file", None)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
