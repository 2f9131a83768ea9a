"""Model, data, loss, collator, trainer and callbacks of a user's own, named by `_target_`."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedConfig, PreTrainedModel, TrainerCallback
from transformers.modeling_outputs import CausalLMOutput

from gpt_opt.config.checks.constraints import constraint_problems
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.own_app.command_line import check_command_line
from gpt_opt.plan.planner import Planner
from gpt_opt.records.io import to_json
from gpt_opt.records.run_dir import RunPaths, find_run_dirs
from gpt_opt.records.run_id import run_id
from gpt_opt.training.build import build
from gpt_opt.training.data.order import Collator
from gpt_opt.training.describe import describe
from gpt_opt.training.instantiate import call_target
from gpt_opt.training.loop import train
from gpt_opt.training.objectives import SFTObjective
from tests.config.test_exp import DOCS, readme
from tests.conftest import CONFIG_DIR, Runner
from tests.training.test_training import DPO, config, equal, final_weights, finish, folder, hooks, rows

TWO_STEPS = [f"training.training_params.{item}" for item in ("max_steps=2", "eval_every=2", "save_every=2")]


def narrow(width: int = 16, **others: Any) -> PreTrainedModel:
    shape = GPT2Config(vocab_size=258, n_positions=64, n_embd=width, n_layer=1, n_head=2)
    return GPT2LMHeadModel(shape)


class BigramConfig(PreTrainedConfig):
    model_type = "bigram"


class Bigram(PreTrainedModel):
    """A model of no family, which knows nothing of caches, generation, or the width and depth of itself."""

    config_class = BigramConfig

    def __init__(self, config: BigramConfig) -> None:
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, **others: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table(input_ids))


def bigram(words: int) -> PreTrainedModel:
    return Bigram(BigramConfig(vocab_size=words))


def too_few_words(**others: Any) -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2))


def nothing(*parts: Any, **others: Any) -> str:
    return "nothing"


@dataclass(frozen=True)
class Short(Collator):
    longest: int = 4

    def rows(self, item: Any) -> Any:
        return [(prompt, answer[: self.longest]) for prompt, answer in super().rows(item)]


class Weighted(SFTObjective):
    """Its loss is `weight` times that of fine-tuning."""

    def __init__(self, *parts: Any, weight: float) -> None:
        super().__init__(*parts)
        self.weight = weight

    def batch_loss(self, *parts: Any, **others: Any) -> Any:
        total, count = super().batch_loss(*parts, **others)
        return self.weight * total, count


class Telling(TrainerCallback):
    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.file.write_text(str(state.global_step))


def own_model(overrides: list[str], **settings: Any) -> dict[str, Any]:
    """A config whose model group has nothing but what a user's own option must have."""
    made = config(overrides)
    target = {"_target_": f"{__name__}.narrow", "tokenizer_name_or_path": "bytes"}
    return {**made, "model": {"name": "narrow", **target, **settings}}


def test_the_readme_trains_with_everything_of_ones_own(
    tmp_path: Path, small: list[str], run_hydra: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(readme("# mine.py"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    option = re.search(r"`(\{name: narrow.*?\})`", DOCS)
    assert option is not None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "narrow.yaml").write_text(option[1])
    command = shlex.split(readme("PYTHONPATH=. python run_hydra.py model=narrow").replace("\\\n", ""))[3:]
    data = ["data.dataset._target_=mine.build", "data.dataset.name=mine", "data.dataset.max_samples=100"]
    kept = [item for item in small if not item.startswith(("model.", "data"))]
    done = run_hydra([f"hydra.searchpath=[file://{tmp_path}]", *kept, *TWO_STEPS, *command, *data])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is done") == 2
    (root,) = find_run_dirs(tmp_path / "outputs" / "narrow" / "mine")
    summary = json.loads(RunPaths(root).summary.read_text())
    assert summary["data"]["train"]["rows"] == 90
    written = [json.loads(line) for line in RunPaths(root).metrics.read_text().splitlines()]
    assert 1 < written[0]["eval/answer_tokens"] <= 10
    assert "answer_tokens" in written[-2]


def test_a_model_of_ones_own_needs_no_other_key(tmp_path: Path, small: list[str]) -> None:
    made = own_model([*small, *DPO, *TWO_STEPS], width=32)
    assert constraint_problems(made) == []
    parts = build(made)
    assert parts.policy.config.hidden_size == 32
    assert parts.reference is not None
    assert parts.reference.is_policy
    assert {module.p for module in parts.policy.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    assert train(made, folder(tmp_path / "run"), hooks()) is not None
    adapted = {**made, "lora": config([*small, *DPO, "lora=lora"])["lora"]}
    assert train(adapted, folder(tmp_path / "lora"), hooks()) is not None


def test_a_model_of_no_family_trains(tmp_path: Path, small: list[str]) -> None:
    fast = [*small, *DPO, *TWO_STEPS, "optimizer.optimizer_params.lr=0.1"]
    made = own_model(fast, _target_=f"{__name__}.bigram", words=258)
    assert "66,564 trained" in describe(made)
    result = train(made, folder(tmp_path / "run"), hooks())
    assert result is not None
    assert result.metrics["eval/kl"] > 0
    lora = config([*fast, "lora=lora", "lora.target_modules=[table]"])["lora"]
    with pytest.raises(ConfigError, match=r"lora: PEFT refuses these settings: .*prepare_inputs_for_generation"):
        build({**made, "lora": lora})


def test_types_and_archive_are_those_of_any_model(tmp_path: Path, small: list[str]) -> None:
    torch.save(narrow().state_dict(), tmp_path / "weights.pt")
    made = own_model([*small, *DPO], policy_dtype="bfloat16", archive=str(tmp_path / "weights.pt"))
    parts = build(made)
    assert {item.dtype for item in parts.policy.parameters()} == {torch.bfloat16}
    assert parts.reference is not None
    with parts.reference.of(parts.policy) as reference:
        assert {item.dtype for item in reference.parameters()} == {torch.bfloat16}
    stored = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, item in parts.policy.state_dict().items():
        assert torch.equal(item, stored[name].to(torch.bfloat16)), name


def test_one_override_replaces_what_makes_the_model(small: list[str]) -> None:
    parts = build(config([*small, *DPO, f"model._target_={__name__}.narrow"]))
    assert parts.policy.config.n_positions == 64


def test_a_collator_cuts_what_is_trained_on(small: list[str]) -> None:
    made = config([*small, *DPO, f"collator={{_target_: {__name__}.Short, longest: 3}}"])
    parts = build(made)
    batch: dict[str, Any] = dict(parts.collator(parts.objective.arrange(parts.items.train)[:8]))
    assert (batch["labels"] >= 0).sum(-1).tolist() == [3] * 16
    longest = max(len(item.prompt) + 3 for item in parts.items.train)
    assert f", {longest} in the longest sequence" in describe(made)


def test_an_aligner_and_its_own_keys(tmp_path: Path, small: list[str]) -> None:
    overrides = [*small, "loss=sft", *TWO_STEPS]
    plain, same, still = (folder(tmp_path / name) for name in ("plain", "same", "still"))
    finish(overrides, plain)
    finish([*overrides, f"aligner={{_target_: {__name__}.Weighted, weight: 1}}"], same)
    finish([*overrides, f"aligner={{_target_: {__name__}.Weighted, weight: 0}}"], still)
    start = build(config(overrides)).policy.state_dict()
    assert rows(same) == rows(plain)
    assert not equal(final_weights(plain), final_weights(still))
    assert all(torch.equal(item, start[name]) for name, item in final_weights(still).items())


def test_a_callback_is_called_at_every_step(tmp_path: Path, small: list[str]) -> None:
    callback = f"callbacks=[{{_target_: {__name__}.Telling, file: {tmp_path / 'step'}}}]"
    finish([*small, *DPO, *TWO_STEPS, callback], folder(tmp_path / "run"))
    assert (tmp_path / "step").read_text() == "2"


def test_what_changes_the_result_changes_the_run() -> None:
    made = ["collator={_target_: a.b}", "aligner={_target_: a.b}", "callbacks=[{_target_: a.b}]", "model._target_=a.b"]
    assert len({run_id(config([*DPO, *more])) for more in ([], *([item] for item in made))}) == 5


NARROW = f"{__name__}.narrow"
NOTHING = f"{__name__}.nothing"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (f"model._target_={NOTHING}", r"model\._target_: must give a PreTrainedModel, but \S+\.nothing gives a str"),
        (f"model._target_={__name__}.too_few_words", "at least the tokenizer's 258 tokens, but is 100"),
        (f"collator={{_target_: {NOTHING}}}", r"collator\._target_: must give a Collate, but \S+ gives a str"),
        (f"aligner={{_target_: {NOTHING}}}", r"aligner\._target_: must give an Objective, but \S+ gives a str"),
        (
            f"callbacks=[{{_target_: {__name__}.Short}}]",
            r"callbacks\[0\]\._target_: must give a TrainerCallback, but \S+ gives a Short",
        ),
    ],
)
def test_an_object_of_another_kind_is_refused(tmp_path: Path, small: list[str], override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(config([*small, *DPO, override]), folder(tmp_path / "run"), hooks())
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("key", ["model._target_=X", "collator={_target_: X}", "aligner={_target_: X}"])
def test_a_target_that_cannot_be_imported_is_refused_before_the_first_step(small: list[str], key: str) -> None:
    for target in ("no.such", f"{__name__}.missing"):
        with pytest.raises(ImportError, match=f"Error loading '{target}'"):
            describe(config([*small, *DPO, key.replace("X", target)]))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("collator=mine.Short", "collator: must be a mapping with the key _target_, but is 'mine.Short'"),
        ("collator=mine.Short", "write {_target_: mine.Short}"),
        ("aligner={name: mine}", "aligner: must be a mapping with the key _target_, but is {'name': 'mine'}"),
        ("callbacks=[mine.Telling]", "callbacks[0]: must be a mapping with the key _target_, but is 'mine.Telling'"),
        ("collator._target_=mine.Short", "cannot be set alone while collator is null"),
        ("collator._target_=mine.Short", "write 'collator={_target_: mine.Short}'"),
        ("model._target_=null", "model._target_"),
    ],
)
def test_a_node_without_a_target_is_refused_before_anything_starts(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(CONFIG_DIR, [*DPO, override])
    assert says in str(caught.value)


def test_an_option_of_ones_own_without_its_name_or_tokenizer_is_refused() -> None:
    made = {**config(DPO), "model": {"_target_": NARROW}}
    assert [problem.where for problem in constraint_problems(made)] == ["model.name", "model.tokenizer_name_or_path"]


def test_a_value_is_resolved_once_from_the_sweep_file_to_what_a_target_gets(tmp_path: Path) -> None:
    """Any text of a sweep file reaches the config, config.json and the arguments of an object as it is."""
    texts: list[Any] = ["${seed}", r"\${seed}", r"\\${x}", "${", "a${oc.env:HOME}b", "$(touch X)", "a\nb", 'it\'s "q"']
    texts += ["a???b", "`x`", "\t\x1b[31m", ["${seed}", {"a": "${seed}"}], {"k": r"\${seed}", "l": ["${x}"]}]
    file = tmp_path / "texts.json"
    nodes = [{"_target_": "builtins.dict", "text": text} for text in texts]
    file.write_text(json.dumps({"base": {"loss.beta": 0.1, "callbacks": nodes, "exp_name": "${seed}"}}))
    planner = Planner(own_app(CONFIG_DIR))
    (run,) = planner.plan(file, [f"paths.output_dir={tmp_path}"], sweeps=tmp_path).runs
    composed = json.loads(to_json(planner.config(run.overrides)))
    assert (composed["exp_name"], [node["text"] for node in composed["callbacks"]]) == ("${seed}", texts)
    whole = call_target({"_target_": "builtins.dict", "inner": composed["callbacks"]})
    assert whole == {"inner": [{"text": text} for text in texts]}
    arguments = call_target({"_target_": "builtins.dict", "_partial_": True, "_args_": [[["a", "${b}"]]], "c": "${d}"})
    assert arguments() == {"a": "${b}", "c": "${d}"}
