"""Other trainers' optimizer states: what is mapped is the optimizer's own tensors by name, the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.errors import HarnessError, InputError, StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training.adam_files import bare_parameter_name
from harness.training.adam_state import AdamState, load_adam_state
from support.outside_trainer import LORA, ROWS, Run, hugging_face, tiny_lora
from support.tiny import make_tiny_model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("trainer")
    return hugging_face(folder, tiny_lora(folder))


def sft_trainer(folder: Path) -> Run:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    base, tokenizer = load_causal_lm(make_tiny_model(folder / "model"))
    arguments = SFTConfig(
        str(folder / "trainer"), max_steps=3, per_device_train_batch_size=4, save_steps=3, report_to="none",
        use_cpu=True, disable_tqdm=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    rows = Dataset.from_list([{"input_ids": row["input_ids"]} for row in ROWS])
    trainer = SFTTrainer(
        base, arguments, train_dataset=rows, processing_class=tokenizer, peft_config=LoraConfig(**LORA)
    )
    trainer.train()
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return Run(folder / "trainer" / "checkpoint-3", trainer.model, inner)


def reloaded(run: Run) -> dict[str, Any]:
    """The trained matrices of the checkpoint's adapter, loaded as a signal loads it."""
    from peft import PeftModel

    base, _ = load_causal_lm(run.checkpoint.parents[1] / "model")
    model = PeftModel.from_pretrained(base, run.checkpoint, is_trainable=True)
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def assert_same(state: AdamState, run: Run, step: int = 3) -> None:
    wanted = run.moments()
    assert set(state.first) == set(wanted) and state.step == step
    for name, entry in wanted.items():
        assert torch.equal(state.first[name], entry["exp_avg"]) and state.first[name].any()
        assert torch.equal(state.second[name], entry["exp_avg_sq"])


def test_a_trainers_checkpoint_is_mapped_by_position(plain: Run) -> None:
    for path in (plain.checkpoint, plain.checkpoint / "optimizer.pt"):
        state = load_adam_state(path, reloaded(plain), plain.checkpoint)
        assert_same(state, plain)
        assert (state.beta1, state.beta2, state.eps, state.learning_rate) == (0.9, 0.99, 1e-8, 1e-3)


def test_so_is_an_sft_trainers(tmp_path: Path) -> None:
    run = sft_trainer(tmp_path)
    assert_same(load_adam_state(run.checkpoint, reloaded(run), run.checkpoint), run)


def test_the_decay_groups_come_one_after_the_other(tmp_path: Path) -> None:
    """A trained bias is in a trainer's second group, so that positions differ from the model's order."""
    run = hugging_face(tmp_path, tiny_lora(tmp_path, lora_bias=True))
    content = torch.load(run.checkpoint / "optimizer.pt", weights_only=True)
    assert [len(g["params"]) for g in content["param_groups"]] == [12, 6]
    assert_same(load_adam_state(run.checkpoint, reloaded(run), run.checkpoint), run)


def test_states_by_name_are_mapped_whatever_their_order(plain: Run, tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    trained = reloaded(plain)
    by_name = get_optimizer_state_dict(plain.model, plain.optimizer)
    assert set(by_name["state"]) == set(plain.moments())
    torch.save(by_name, tmp_path / "optimizer.bin")
    assert_same(load_adam_state(tmp_path, trained, tmp_path), plain)
    # The names of PEFT's own files, of wrapped modules, and of a model without PEFT's prefix; in another order.
    rename: list[Callable[[str], str]] = [
        lambda n: n.replace(".default.", "."),
        lambda n: "_orig_mod.module." + n.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        lambda n: n.removeprefix("base_model.model.").replace(".default.", ".mine."),
    ]
    for change in rename:
        states = {change(n): entry for n, entry in reversed([*by_name["state"].items()])}
        torch.save({"state": states, "param_groups": by_name["param_groups"]}, tmp_path / "optimizer.bin")
        assert_same(load_adam_state(tmp_path, trained, tmp_path), plain)


def test_names_that_an_optimizer_was_given_outweigh_positions(plain: Run, tmp_path: Path) -> None:
    named = [(n, p) for n, p in plain.model.named_parameters() if p.requires_grad][::-1]
    optimizer = torch.optim.AdamW(named, lr=1e-3)
    for _, p in named:
        p.grad = torch.full_like(p, float(p.numel()))
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    run = Run(tmp_path, plain.model, optimizer)
    assert_same(load_adam_state(tmp_path, reloaded(plain), tmp_path), run, step=1)


def test_a_flattened_state_in_safetensors_is_read(plain: Run, tmp_path: Path) -> None:
    tensors = {f"state.{n}.{k}": v.clone() for n, entry in plain.moments().items() for k, v in entry.items()}
    path = tmp_path / "optimizer.safetensors"
    save_file(tensors, path, metadata={"beta1": "0.9", "beta2": "0.99"})
    assert_same(load_adam_state(path, reloaded(plain), tmp_path), plain)
    save_file(tensors, path)
    with pytest.raises(InputError, match="does not say Adam's beta1"):
        load_adam_state(path, reloaded(plain), tmp_path)
    save_file(tensors, path, metadata={"beta1": "0.9", "beta2": "0.99", "step": "three"})
    with pytest.raises(InputError, match="step is 'three' in its metadata; write a number"):
        load_adam_state(path, reloaded(plain), tmp_path)


def test_adapter_names_are_told_from_what_they_name() -> None:
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    for written in ("default", "teacher_2"):
        assert bare_parameter_name(f"base_model.model.{name.replace('.lora_A.', f'.lora_A.{written}.')}") == name
    assert bare_parameter_name(name) == name
    assert bare_parameter_name("base_model.model.lm_head.modules_to_save.default.weight").startswith(
        "lm_head.modules_to_save"
    )


def refused(path: Path, trained: dict[str, Any], kind: type[HarnessError], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        load_adam_state(path, trained, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("optim, has", [("sgd", "momentum_buffer"), ("adafactor", "exp_avg_sq_row")])
def test_other_optimizers_are_refused(tmp_path: Path, optim: str, has: str) -> None:
    more = {"optim_args": "momentum=0.9"} if optim == "sgd" else {}
    run = hugging_face(tmp_path, tiny_lora(tmp_path), optim=optim, **more)
    refused(run.checkpoint, reloaded(run), InputError, f"is not Adam's: .*{has}.*; train the warm-up with AdamW")


def changed(plain: Run, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(plain.checkpoint / "optimizer.pt", weights_only=True)
    change(content)
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / "optimizer.pt")
    return folder


def test_states_that_would_be_wrong_are_refused(plain: Run, tmp_path: Path) -> None:
    trained = reloaded(plain)

    def each(**values: Any) -> Callable[[dict[str, Any]], None]:
        return lambda content: [entry.update(values) for entry in content["state"].values()] and None

    def swap(content: dict[str, Any]) -> None:
        for entry in content["state"].values():
            entry["exp_avg"], entry["exp_avg_sq"] = entry["exp_avg_sq"], entry["exp_avg"]

    def eight_bit(content: dict[str, Any]) -> None:
        for number in content["state"]:
            packed = {k: torch.zeros(4, dtype=torch.uint8) for k in ("state1", "state2")}
            content["state"][number] = {"step": 3, **packed, "qmap1": torch.zeros(256), "absmax1": torch.zeros(1)}

    def half(content: dict[str, Any]) -> None:
        for entry in content["state"].values():
            entry["exp_avg_sq"] = (entry["exp_avg_sq"] * 1e-12).half()

    cases: list[tuple[Callable[[dict[str, Any]], None], type[HarnessError], str]] = [
        (eight_bit, InputError, "bitsandbytes"),
        (each(max_exp_avg_sq=torch.zeros(1)), InputError, "AMSGrad"),
        (lambda c: c["state"][0].update(step=torch.tensor(7.0)), InputError, "have taken 3 to 7 steps"),
        (lambda c: c["state"].clear(), InputError, "before the first step"),
        (lambda c: c["state"].pop(3) and None, StageError, "holds no Adam moments for .*lora_B"),
        (lambda c: c["state"][0]["exp_avg_sq"].neg_(), StageError, "negative values"),
        (lambda c: c["state"][0]["exp_avg"].fill_(float("nan")), StageError, "not finite"),
        (swap, StageError, "negative values"),
        (lambda c: c["param_groups"][0].update(betas=(0.9, 0.5)), StageError, "larger than Adam can make it"),
        (half, StageError, "larger than Adam can make it"),
        (lambda c: c["param_groups"][0]["params"].pop() and None, InputError, "groups of 11, 0, .* of 12 and 0"),
        (lambda c: c.pop("param_groups"), InputError, "no optimizer's state_dict"),
    ]
    for number, (change, kind, match) in enumerate(cases):
        refused(changed(plain, tmp_path / str(number), change), trained, kind, match)


def test_groups_of_ones_own_are_refused(plain: Run, tmp_path: Path) -> None:
    """LoRA+ trains B at another rate, in a group of its own: the order is not a trainer's."""
    from peft.optimizers import create_loraplus_optimizer

    optimizer = create_loraplus_optimizer(plain.model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    for p in plain.model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    refused(tmp_path, reloaded(plain), InputError, "groups of 6, 0, 6, 0, and .* save the state by parameter name")


def test_sharded_and_missing_states_are_refused(plain: Run, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    trained = reloaded(plain)
    checkpoint.save(
        {"optimizer": get_optimizer_state_dict(plain.model, plain.optimizer)},
        checkpoint_id=str(tmp_path / "fsdp" / "optimizer_0"),
        no_dist=True,
    )
    refused(tmp_path / "fsdp", trained, InputError, r"sharded \(optimizer_0/.*distcp and others\); .*FULL_STATE_DICT")
    zero = tmp_path / "zero" / "global_step3"
    zero.mkdir(parents=True)
    shard = zero / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    shard.write_bytes(b"")
    refused(tmp_path / "zero", trained, InputError, "is sharded .*without DeepSpeed's ZeRO")
    refused(shard, trained, InputError, "one shard")
    (tmp_path / "nothing").mkdir()
    refused(tmp_path / "nothing", trained, InputError, "none of adam.safetensors, optimizer.pt.*save_only_model=False")
    refused(tmp_path / "absent", trained, StageError, "no Adam moments at")


def test_files_are_never_run_as_code(plain: Run, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state": Trap(), "param_groups": []}, tmp_path / "optimizer.pt")
    refused(tmp_path, reloaded(plain), InputError, "cannot be read as tensors and plain values")
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "optimizer.pt").write_bytes(b"no torch file")
    refused(tmp_path, reloaded(plain), InputError, "cannot be read as tensors and plain values")
    (tmp_path / "adam.safetensors").write_bytes(b"no safetensors")
    refused(tmp_path, reloaded(plain), InputError, "not a readable safetensors file")


def test_another_adapters_state_is_refused(plain: Run, tmp_path: Path) -> None:
    wider = {n: p for n, p in tiny_lora(tmp_path, r=8).named_parameters() if p.requires_grad}
    refused(plain.checkpoint, wider, StageError, r"have shape \(4, 32\), the adapter's have \(8, 32\)")
    fewer = {n: p for n, p in tiny_lora(tmp_path, target_modules=["q_proj"]).named_parameters() if p.requires_grad}
    refused(plain.checkpoint, fewer, InputError, "groups of 12, 0, and a trainer of this adapter has groups of 4 and 0")
