"""Whole runs: replay, resume bit for bit, accumulation, adapters, isolation."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt_opt.config.inputs import inputs_of
from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError, DataError, GptOptError, RequestError
from gpt_opt.records.run_dir import checkpoints
from gpt_opt.run.resolvers import register_resolvers
from gpt_opt.training.build import build
from gpt_opt.training.checkpointing import final_checkpoint, latest_checkpoint
from gpt_opt.training.describe import describe
from gpt_opt.training.interface import Folder, Hooks, Result
from gpt_opt.training.loop import train
from gpt_opt.training.memory import estimate_mb
from gpt_opt.training.models.build import _read_weights, require_archive
from gpt_opt.training.parts import Parts
from tests.conftest import small_overrides
from tests.helpers.configs import composed

register()
register_resolvers()

DPO = ["loss.beta=0.1"]
SFT = ["loss=sft", "model.config.resid_pdrop=0.2"]  # dropout: the random state must be restored too


def config(overrides: Sequence[str]) -> dict[str, Any]:
    return composed(overrides)


def hooks(stop_at: int | None = None, on_step: Callable[[int], None] | None = None) -> Hooks:
    """Hooks that ask for a stop once step `stop_at` was told, as a signal would."""
    steps = [0]

    def stop() -> bool:
        steps[0] += 1
        if on_step is not None:
            on_step(steps[0])
        return stop_at is not None and steps[0] >= stop_at

    return Hooks(progress=lambda step, total: None, stop_requested=stop, fence=lambda: None)


def folder(path: Path) -> Folder:
    path.mkdir()
    return Folder(path / "checkpoints", path / "metrics.jsonl", path / "samples.jsonl")


def rows(place: Folder) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what depends on the clock."""
    clock = ("time", "tokens_per_second", "eval/seconds")
    parsed = [json.loads(line) for line in place.metrics.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in clock} for row in parsed]


def final_weights(place: Folder) -> dict[str, torch.Tensor]:
    latest = latest_checkpoint(place.checkpoints)
    assert latest is not None
    return load_file(latest / "model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def finish(overrides: Sequence[str], place: Folder) -> Result:
    result = train(config(overrides), place, hooks())
    assert result is not None
    return result


@pytest.mark.parametrize("loss", [DPO, SFT], ids=["dpo", "sft"])
@pytest.mark.parametrize("stop_at", [3, 4, 9])
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    tmp_path: Path, small: list[str], loss: list[str], stop_at: int
) -> None:
    """Over an epoch border (80 pairs, 12 steps of 8), in the middle of a log window and on its border."""
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    expected = finish([*small, *loss], whole)
    assert train(config([*small, *loss]), broken, hooks(stop_at)) is None
    assert [path.name for path in checkpoints(broken.checkpoints)][-1] == f"checkpoint-{stop_at}"
    found = finish([*small, *loss], broken)
    assert equal(final_weights(whole), final_weights(broken))
    assert rows(whole) == rows(broken)
    clock = ("tokens_per_second", "eval/seconds")
    assert {k: v for k, v in found.metrics.items() if k not in clock} == {
        k: v for k, v in expected.metrics.items() if k not in clock
    }


def test_a_crash_after_the_last_checkpoint_repeats_no_metrics(tmp_path: Path, small: list[str]) -> None:
    class Crash(Exception):
        pass

    def crash(step: int) -> None:
        if step == 7:
            raise Crash

    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    finish([*small, *DPO], whole)
    with pytest.raises(Crash):
        train(config([*small, *DPO]), broken, hooks(on_step=crash))
    with broken.metrics.open("a") as stream:
        stream.write('{"step": 8, "lo')  # the line that a kill tore
    finish([*small, *DPO], broken)
    assert rows(whole) == rows(broken)
    assert equal(final_weights(whole), final_weights(broken))


def test_a_half_saved_checkpoint_is_never_used(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    assert train(config([*small, *DPO]), place, hooks(stop_at=4)) is None
    staging = place.checkpoints / ".saving-8" / "checkpoint-8"
    staging.mkdir(parents=True)
    (staging / "model.safetensors").write_bytes(b"torn")
    result = finish([*small, *DPO], place)
    assert result.step == 12
    assert not list(place.checkpoints.glob(".saving-*"))


def test_a_run_is_the_same_alone_and_as_the_third_of_a_process(tmp_path: Path, small: list[str]) -> None:
    alone = folder(tmp_path / "alone")
    finish([*small, *DPO], alone)
    finish([*small, *SFT, "seed=5"], folder(tmp_path / "first"))
    finish([*small, *DPO, "training.training_params.mixed_precision=bf16"], folder(tmp_path / "second"))
    torch.rand(7)
    third = folder(tmp_path / "third")
    finish([*small, *DPO], third)
    assert rows(alone) == rows(third)
    assert equal(final_weights(alone), final_weights(third))


@pytest.mark.parametrize("loss", [DPO, ["loss=sft"]], ids=["dpo", "sft"])
def test_accumulation_changes_nothing_but_rounding(tmp_path: Path, small: list[str], loss: list[str]) -> None:
    whole, parts = folder(tmp_path / "whole"), folder(tmp_path / "parts")
    finish([*small, *loss], whole)
    sizes = ["training.training_params.micro_batch_size=2", "training.training_params.eval_batch_size=3"]
    finish([*small, *loss, *sizes], parts)
    evaluations = [[row["eval/loss"] for row in rows(place) if "eval/loss" in row] for place in (whole, parts)]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-4)
    assert evaluations[0] != evaluations[1]  # rounding: the batches were others
    losses = [[row["loss"] for row in rows(place) if "loss" in row] for place in (whole, parts)]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    norms = [[row["grad_norm"] for row in rows(place) if "grad_norm" in row] for place in (whole, parts)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


REPLAY = json.loads((Path(__file__).parent / "replay.json").read_text())


@pytest.mark.parametrize("name", sorted(REPLAY))
def test_fifty_steps_replayed_against_stored_numbers(tmp_path: Path, small: list[str], name: str) -> None:
    """Written by `python -m tests.training.make_replay`; a difference means that training has changed."""
    stored = REPLAY[name]
    overrides = [*small, *stored["overrides"], "training.training_params.max_steps=50"]
    place = folder(tmp_path / "run")
    finish([*overrides, "training.training_params.log_every=10", "training.training_params.eval_every=50"], place)
    found = [row["loss"] for row in rows(place) if "loss" in row]
    assert found == pytest.approx(stored["loss"], rel=2e-3)
    assert rows(place)[-1]["eval/loss"] == pytest.approx(stored["eval/loss"], rel=5e-3)


def test_the_learning_rate_follows_the_schedule(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    overrides = [*small, *DPO, "optimizer.optimizer_params.lr=1.0e-3", "training.training_params.log_every=1"]
    schedule = ["optimizer.optimizer_params.lr_schedule=warm-up-constant", "training.training_params.warmup_steps=4"]
    finish([*overrides, *schedule], place)
    rates = [row["learning_rate"] for row in rows(place) if "learning_rate" in row]
    assert rates == pytest.approx([1e-3 * min(1, (step + 1) / 5) for step in range(12)])


def test_metrics_have_the_names_of_the_field(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    result = finish([*small, *DPO], place)
    names = {"loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"}
    names |= {"logps/rejected"}
    assert names | {"grad_norm", "learning_rate", "tokens_per_second"} <= result.metrics.keys()
    assert {f"eval/{name}" for name in names | {"kl"}} <= result.metrics.keys()
    start = rows(place)[0]
    assert start["step"] == 0
    assert start["eval/loss"] == pytest.approx(0.6931471805599453)
    assert start["eval/kl"] == 0
    assert result.metrics["eval/kl"] > 0
    assert result.tokens > 0
    assert result.peak_memory_mb > 10


def test_a_resume_on_other_data_is_refused(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    assert train(config([*small, *DPO]), place, hooks(stop_at=4)) is None
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="must be the data that checkpoint-4 was trained on"):
        train(config([*small, *DPO]), place, hooks())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def zeroed(file: Path) -> None:
    """Makes a file what a power failure leaves of it: its size, without its content."""
    file.write_bytes(b"\0" * file.stat().st_size)


def flipped(file: Path) -> None:
    """Changes one byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(
    tmp_path: Path, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    overrides = [*small, *DPO, "training.training_params.save_total_limit=3", "loss.label_smoothing=0.1"]
    whole, broken = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    finish(overrides, whole)
    assert train(config(overrides), broken, hooks(stop_at=9)) is None
    assert [path.name for path in checkpoints(broken.checkpoints)] == ["checkpoint-4", "checkpoint-8", "checkpoint-9"]
    cut(broken.checkpoints / "checkpoint-9" / "model.safetensors")
    cut(broken.checkpoints / "checkpoint-8" / "progress.json")
    result = finish(overrides, broken)
    assert result.step == 12
    assert rows(whole) == rows(broken)
    assert equal(final_weights(whole), final_weights(broken))
    assert [path.name for path in checkpoints(broken.checkpoints)] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    warnings = [text for text in caplog.messages if "is damaged and left out, checkpoint-4 serves instead" in text]
    assert [path in text for path, text in zip(("checkpoint-9", "checkpoint-8"), warnings, strict=True)] == [True, True]
    assert re.search(r"model\.safetensors has [\d,]+ bytes, not the [\d,]+ that were written", warnings[0])


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("model.safetensors", cut, "model.safetensors has "),
        ("model.safetensors", zeroed, "model.safetensors cannot be read: its header would have 0 bytes"),
        ("model.safetensors", Path.unlink, "lacks weights"),
        ("optimizer.pt", zeroed, "optimizer.pt cannot be read: File is not a zip file"),
        ("optimizer.pt", flipped, "optimizer.pt cannot be read: the checksum of "),
        ("rng_state.pth", Path.unlink, "lacks rng_state.pth"),
        ("trainer_state.json", zeroed, "trainer_state.json cannot be read"),
        ("sizes.json", cut, "sizes.json cannot be read"),
        ("training_args.bin", lambda file: file.write_bytes(b"\0"), ""),  # transformers adds it, nobody reads it
    ],
)
def test_whatever_is_wrong_with_a_file_of_a_checkpoint_is_found(
    saved: Path, tmp_path: Path, name: str, harm: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(saved, tmp_path / "checkpoints" / "checkpoint-1")
    harm(tmp_path / "checkpoints" / "checkpoint-1" / name)
    if not words:
        assert latest_checkpoint(tmp_path / "checkpoints") is not None
        return
    with pytest.raises(RequestError) as caught:  # it is the only one: nothing starts anew in silence
        latest_checkpoint(tmp_path / "checkpoints")
    assert f"checkpoint-1: must be a whole checkpoint, but {words}" in str(caught.value)
    assert "rerun=true, or remove the folder" in str(caught.value)
    shutil.copytree(saved, tmp_path / "checkpoints" / "checkpoint-0")
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "checkpoint-0"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after one step, which tests copy."""
    place = tmp_path_factory.mktemp("saved")
    train(config([*small_overrides(place), *DPO]), folder(place / "run"), hooks(stop_at=1))
    return place / "run" / "checkpoints" / "checkpoint-1"


def test_a_damaged_checkpoint_is_no_result_and_no_start(saved: Path, tmp_path: Path, small: list[str]) -> None:
    place = tmp_path / "checkpoints" / "checkpoint-1"
    shutil.copytree(saved, place)
    (place / "optimizer.pt").unlink()
    (place / "onnx").mkdir()
    (place / "onnx" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")  # nobody loads it
    assert final_checkpoint(place.parent) == place  # whoever takes the result needs the weights alone
    cut(place / "model.safetensors")
    with pytest.raises(GptOptError, match=r"must be the result of its run, but model\.safetensors has .* rerun=true"):
        final_checkpoint(place.parent)
    hf = [item for item in small if not item.startswith("model")]
    for given, key in [
        ([*small, f"model.archive={place}"], "model.archive"),
        ([*hf, "model=hf", "model.tokenizer_name_or_path=bytes", f"model.name_or_path={place}"], "model.name_or_path"),
        ([*small, f"loss.ref_model_id={place}"], "loss.ref_model_id"),
    ]:
        for harm in (lambda: None, (place / "sizes.json").unlink):  # as a model that somebody else has saved
            harm()
            with pytest.raises(ConfigError, match=rf"{key}: must have whole weights.*model\.safetensors "):
                build(config([*given, *DPO]))
        shutil.copy(saved / "sizes.json", place)


def test_a_resume_with_other_weights_is_refused(
    saved: Path, tmp_path: Path, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A run that began with an archive, a reference and code of the user's."""
    archive, reference, code = (tmp_path / name for name in ("archive", "reference", "code_of_weights.py"))
    for copy in (archive, reference):
        shutil.copytree(saved, copy)
    code.write_text("from gpt_opt.training.losses import build_dpo\n")
    sys.path.insert(0, str(tmp_path))
    target = ["loss._target_=code_of_weights.build_dpo"]
    try:
        given = config([*small, *DPO, *target, f"model.archive={archive}", f"loss.ref_model_id={reference}"])
        place = folder(tmp_path / "run")
        before = inputs_of(given)
        assert train(given, place, hooks(stop_at=2), before) is None
        flipped(archive / "model.safetensors")
        flipped(reference / "model.safetensors")
        with pytest.raises(DataError) as caught:
            train(given, place, hooks(), inputs_of(given))
        lines = str(caught.value).splitlines()
        old, new = before["model.archive"]["sha256"][:12], inputs_of(given)["model.archive"]["sha256"][:12]
        words = f"must be what checkpoint-2 was trained with, {old}, but {archive} is now {new}"
        assert lines[:3] == ["2 problems:", f"  - model.archive: {words}", f"      {RESTORE}"]
        assert lines[3].startswith("  - loss.ref_model_id: must be what checkpoint-2 was trained with")
        for copy in (archive, reference):
            shutil.copy(saved / "model.safetensors", copy)
        code.write_text(code.read_text() + "# mended\n")
        result = train(given, place, hooks(), inputs_of(given))
        assert result is not None
        assert result.step == 12
        assert f"{code} has changed since: the training goes on with it as it is now" in caplog.messages
    finally:
        sys.path.remove(str(tmp_path))


RESTORE = "restore it, or train from the start: rerun=true"


def test_a_run_that_recorded_no_weights_goes_on(saved: Path, tmp_path: Path, small: list[str]) -> None:
    """Of a version before they were recorded, or before sizes were."""
    place = folder(tmp_path / "run")
    shutil.copytree(saved, place.checkpoints / "checkpoint-1")
    progress = place.checkpoints / "checkpoint-1" / "progress.json"
    record = json.loads(progress.read_text())
    del record["inputs"], record["order"]
    progress.write_text(json.dumps(record))
    (progress.parent / "sizes.json").unlink()
    overrides = [*small, *DPO, "training.training_params.max_steps=3"]
    assert train(config(overrides), place, hooks(), {"model.archive": {"path": "x", "sha256": "0"}}) is not None


def test_a_config_key_that_the_architecture_does_not_know_is_refused(small: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.config\.n_layr: is no key of a gpt2"):
        build(config([*small, *DPO, "+model.config.n_layr=2"]))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, small: list[str]) -> None:
    for limit, expected in [("1", [12]), ("2", [8, 12]), ("null", [4, 8, 12])]:
        place = folder(tmp_path / limit)
        finish([*small, *DPO, f"training.training_params.save_total_limit={limit}"], place)
        assert [int(path.name.rpartition("-")[2]) for path in checkpoints(place.checkpoints)] == expected


@pytest.mark.parametrize(
    "extra", [[], ["lora.use_dora=true"], ["lora.use_rslora=true"]], ids=["lora", "dora", "rslora"]
)
def test_adapters_are_trained_alone_with_the_base_as_reference(
    tmp_path: Path, small: list[str], extra: list[str]
) -> None:
    place = folder(tmp_path / "run")
    result = finish([*small, *DPO, "lora=lora", "lora.r=4", *extra, "optimizer.optimizer_params.lr=0.01"], place)
    start = rows(place)[0]
    assert start["eval/loss"] == pytest.approx(0.6931471805599453, rel=1e-5)
    assert result.metrics["eval/kl"] > 0
    latest = latest_checkpoint(place.checkpoints)
    assert latest is not None
    assert (latest / "adapter_model.safetensors").exists()
    assert not (latest / "model.safetensors").exists()


def test_reference_free_needs_no_reference_model(tmp_path: Path, small: list[str]) -> None:
    overrides = [*small, *DPO, "loss.reference_free=true", "loss.use_ref_model=false"]
    result = finish(overrides, folder(tmp_path / "run"))
    assert build(config(overrides)).reference is None
    assert "eval/kl" not in result.metrics


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, small: list[str]) -> None:
    plain, saving = folder(tmp_path / "plain"), folder(tmp_path / "saving")
    finish([*small, *DPO], plain)
    finish([*small, *DPO, "training.training_params.gradient_checkpointing=true"], saving)
    assert equal(final_weights(plain), final_weights(saving))


def estimated_mb(parts: Parts, rows: int, width: int, mixed: bool = False) -> float:
    reference = parts.reference.model if parts.reference is not None else None
    return estimate_mb(parts.policy, reference, rows, width, mixed)


def test_a_dry_run_tells_sizes(small: list[str]) -> None:
    text = describe(config([*small, *DPO]))
    for word in ("parameters", "steps          12 of 8", "tokens", "peak memory", "AdamW"):
        assert word in text


def test_memory_is_estimated_in_the_types_that_are_used(small: list[str]) -> None:
    def estimate(*overrides: str) -> tuple[int, float]:
        parts = build(config([*small, *DPO, *overrides]))
        return sum(item.numel() for item in parts.policy.parameters()), estimated_mb(parts, 0, 0)

    for dtype, size in [("float32", 4), ("bfloat16", 2)]:
        count, found = estimate(f"model.policy_dtype={dtype}")
        assert found == pytest.approx(4 * size * count / 2**20)  # policy, gradients, two states
        count, found = estimate(f"model.policy_dtype={dtype}", "loss.precompute_ref_log_probs=false")
        assert found == pytest.approx(5 * size * count / 2**20)  # and the reference
    count, found = estimate("model.reference_dtype=bfloat16")
    assert found == pytest.approx((4 * 4 + 2) * count / 2**20)
    parts = build(config([*small, *DPO]))
    whole, half = (estimated_mb(parts, 8, 64, mixed) - estimated_mb(parts, 0, 0, mixed) for mixed in (False, True))
    activations = 34 * 8 * 64 * 16 / 2**20  # width 16, one layer
    assert whole - half == pytest.approx(activations)


def test_a_checkpoint_is_as_readable_as_any_file(tmp_path: Path, small: list[str]) -> None:
    place, before = folder(tmp_path / "run"), os.umask(0o027)
    try:
        finish([*small, *DPO, "training.training_params.max_steps=2"], place)
    finally:
        os.umask(before)
    (last,) = place.checkpoints.iterdir()
    assert {path.stat().st_mode & 0o777 for path in last.iterdir()} == {0o640}


def test_weights_that_do_not_fit_are_an_error(tmp_path: Path, small: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.archive: the weights of 'embedded' must fit the model"):
        build(config([*small, *DPO, "model.archive=embedded"]))
    text = tmp_path / "weights.safetensors"
    text.write_text("no weights")
    with pytest.raises(ConfigError, match="must hold weights"):
        build(config([*small, *DPO, f"model.archive={text}"]))
    with pytest.raises(ConfigError, match="but is '/no/such'"):
        build(config([*small, *DPO, "model.archive=/no/such"]))
    with pytest.raises(ConfigError, match=r"tokenizer's 258 tokens, but is 100"):
        build(config([*small, *DPO, "model.config.vocab_size=100"]))
    with pytest.raises(ConfigError, match=r"model\.config"):
        build(config([*small, *DPO, "model.config.model_type=nonsense"]))


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_file_of_weights_is_read_as_training_loops_write_it(tmp_path: Path, key: str | None, prefix: str) -> None:
    weights = {"transformer.wte.weight": torch.arange(4.0), "lm_head.weight": torch.arange(4.0)}
    saved: dict[str, Any] = {f"{prefix}{name}": value for name, value in weights.items()}
    file = tmp_path / "weights.pth"
    torch.save(saved if key is None else {key: saved, "optimizer": {"state": {}}, "epoch": 3}, file)
    assert equal(_read_weights(file), weights)


def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(2)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert equal(_read_weights(index), {"a": torch.ones(2), "b": torch.zeros(2)})


def test_a_saved_model_is_loaded_by_name_and_by_archive(tmp_path: Path, small: list[str]) -> None:
    place = folder(tmp_path / "run")
    finish([*small, *DPO], place)
    latest = latest_checkpoint(place.checkpoints)
    require_archive(config([*small, *DPO, f"model.archive={latest}"])["model"])
    torch.save({"model": load_file(latest / "model.safetensors")}, tmp_path / "weights.pt")
    require_archive(config([*small, *DPO, f"model.archive={tmp_path / 'weights.pt'}"])["model"])
    with pytest.raises(
        ConfigError, match=r"model\.archive: .* must fit the model, but: n_embd is 128 here and 16 there"
    ):
        require_archive(config(["loss.beta=0.1", f"model.archive={latest}"])["model"])
    with pytest.raises(ConfigError, match=r"model\.archive: .* must fit the model, but: size mismatch") as caught:
        require_archive(config(["loss.beta=0.1", f"model.archive={tmp_path / 'weights.pt'}"])["model"])
    assert "in current model is torch.Size([128]) (and 13 more)\n" in str(caught.value)
    by_archive = build(config([*small, *DPO, f"model.archive={tmp_path / 'weights.pt'}"])).policy
    hf = [item for item in small if not item.startswith("model")]
    names = ["model=hf", f"model.name_or_path={latest}", "model.tokenizer_name_or_path=bytes"]
    by_name = build(config([*hf, *names, *DPO])).policy
    for policy in (by_archive, by_name):
        found = dict(policy.named_parameters())
        for name, value in final_weights(place).items():
            assert torch.equal(found[name], value)


def test_a_hub_name_that_cannot_be_had_is_an_error_that_names_the_key(small: list[str]) -> None:
    hf = [item for item in small if not item.startswith("model")]
    with pytest.raises(ConfigError, match=r"model\.tokenizer_name_or_path: must be a hub id or a folder"):
        build(config([*hf, "model=hf", "model.name_or_path=no/such-model", *DPO]))
