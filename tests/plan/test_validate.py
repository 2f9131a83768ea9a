"""A request is checked whole: every point, every problem, before anything starts."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from gpt_opt.config.schema import register
from gpt_opt.errors import ConfigError
from gpt_opt.own_app.app import own_app
from gpt_opt.own_app.command_line import check_command_line
from gpt_opt.plan.compose.hydra import Configs, load, loader, plain, without_hydra
from gpt_opt.plan.validate import PointChecker
from gpt_opt.run.resolvers import register_resolvers
from tests.conftest import CONFIG_DIR

register()
register_resolvers()


@pytest.fixture(scope="module")
def checker() -> PointChecker:
    return PointChecker(own_app(CONFIG_DIR))


def report(arguments: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_command_line(CONFIG_DIR, arguments)
    return str(caught.value)


def test_a_missing_mandatory_key_is_named_with_meaning_and_remedy() -> None:
    text = report([])
    assert "loss.beta: is mandatory" in text
    assert "pull towards the reference model" in text
    assert "loss.beta=0.1" in text


def test_all_missing_keys_are_named_at_once() -> None:
    text = report(["data=jsonl", "paths=local_run_dir", "model=hf"])
    assert text.startswith("4 problems")
    for key in ("loss.beta", "data.dataset.path", "exp_name", "model.name_or_path"):
        assert f"- {key}: is mandatory" in text


def test_every_wrong_override_is_named_with_what_is_valid() -> None:
    text = report(["loss=sftt", "loss.beta=x", "lr=3", "seed=a", "model.config.n_embdd=3", "exp_name=["])
    assert text.startswith("6 problems")
    assert "loss: must be one of dpo, hinge, ipo, ipo_sum, kto, kto_pair, lm, orpo, robust, sft, but is 'sftt'" in text
    assert "loss.beta=x: must be a number, but is 'x'" in text
    assert "did you mean optimizer.optimizer_params.lr?" in text
    assert "seed=a" in text
    assert "did you mean model.config.n_embd?" in text
    assert "exp_name=[: is not a Hydra override" in text


@pytest.mark.parametrize("value", ["outputs/loss=sft-1/checkpoint-80", "a b=c", "it's=$HOME/x", 'a\\"b=`c`'])
def test_what_hydra_cannot_read_is_said_as_it_can(value: str) -> None:
    """The hint is for a shell, and what comes out of one is the value that was typed."""
    hint = report(["loss.beta=0.1", f"exp_name={value}"]).rpartition("quote it: ")[2]
    (argument,) = shlex.split(hint)
    assert OverridesParser.create().parse_override(argument).value() == value
    if value.startswith("outputs"):
        assert hint == "\"exp_name='outputs/loss=sft-1/checkpoint-80'\""


def test_a_key_that_the_option_would_ignore_does_not_exist() -> None:
    assert "loss.beta: is not a key of this config" in report(["loss=sft", "loss.beta=0.1"])
    assert "betas" in report(["loss.beta=0.1", "optimizer=rmsprop", "optimizer.optimizer_params.betas=[0.9,0.9]"])


def test_every_point_of_a_sweep_is_checked_and_equal_problems_are_counted() -> None:
    text = report(["-m", "loss.beta=0.1,-1", "seed=0,1,2"])
    assert text.startswith("1 problem,")
    assert "loss.beta: must be a finite number above 0, but is -1.0 (3 of 6 points, the first is point 3)" in text


def test_an_unknown_key_is_told_once_whatever_its_values() -> None:
    text = report(["-m", "loss.beta=0.1", "loss.betta=1,2,3", "seeed=a,b"])
    assert text.startswith("2 problems")
    assert text.count("is not a key of this config") == 2


def test_a_sweep_without_m_says_what_to_do() -> None:
    text = report(["loss.beta=0.1,0.2"])
    assert "loss.beta: has several values, 0.1,0.2, but without -m there is one run" in text
    assert "to train each of them: -m loss.beta=0.1,0.2" in text
    assert "to train each: -m loss.beta=0.1,0.2" in report(["-m", "loss.beta=[0.1, 0.2]"])
    assert "must be an integer, but is '1000.0': write 1000" in report(["loss.beta=0.1", "seed=1e3"])


def test_blanks_around_the_sign_are_named() -> None:
    text = report(["loss.beta", "=", "0.1"])
    assert "loss.beta: is no setting: those are written KEY=VALUE, without blanks around the =" in text
    assert "write loss.beta=VALUE" in text
    assert text.startswith("3 problems")
    assert "quote" not in text


def test_several_trackers_as_options_are_refused_with_how_to_say_it() -> None:
    for listed in (["+logging=[wandb,tensorboard]"], ["-m", "+logging=[tensorboard, mlflow]", "seed=0,1"]):
        text = report([*listed, "loss.beta=0.1"])
        assert "- logging: takes one option, but '+logging=[" in text
        assert "write logging.logging_params.report_to=[" in text
    check_command_line(CONFIG_DIR, ["loss.beta=0.1", "logging.logging_params.report_to=[tensorboard]"])


@pytest.mark.parametrize("arguments", [["loss.beta=0.1"], ["-m", "loss.beta=0.1,0.2", "seed=range(0,3)"], ["loss=sft"]])
def test_good_requests_pass(arguments: list[str]) -> None:
    check_command_line(CONFIG_DIR, arguments)


@pytest.mark.parametrize(
    ("overrides", "problem", "fix"),
    [
        (["+loss.betta=0.1"], "loss.betta: is not a key of this config", "did you mean loss.beta?"),
        (["++loss.betta=0.1"], "loss.betta: is not a key of this config", "did you mean loss.beta?"),
        (["+foo=1"], "foo: is not a key of this config", "one of your own goes below user, as user.NAME=VALUE"),
        (["+foo.bar={a: 1}"], "foo.bar.a: is not a key of this config", "below user"),
        (["+lora.r=16"], "lora.r: is not a key of this config", "write lora=lora lora.r=16"),
        (["+training.training_params={max_stepz: 1}"], "max_stepz: is not a key", "training_params.max_steps?"),
        (
            ["+optimizer.optimizer_params.weigth_decay=1"],
            "weigth_decay: is not a key",
            "optimizer_params.weight_decay?",
        ),
        (["+hydra.job.nme=x"], "hydra.job.nme: is not a key", "did you mean hydra.job.name?"),
        (["+seed=1"], "seed: has a value already", "write seed=1"),
        (["~loss.bta"], "loss.bta: is not a key of this config", "did you mean loss.beta?"),
        (["seed=null"], "seed=null: must have a value, but is null", ""),
        (["callbacks=3"], "callbacks=3: must be a list, but is of type int", ""),
        (["+callbacks.x=1"], "+callbacks.x=1: is a list, which has no key 'x'", ""),
        (["user=3"], "user=3: must hold keys of its own, but is of type int", ""),
        (["data=mixture", "data.dataset.weights={a: 1}"], "weights.a: is not a key", "by +: +data.dataset.weights="),
        (["~seed"], "seed: is needed, so it cannot be deleted", "give it another value"),
        (["~gpu"], "gpu: is needed, so it cannot be deleted", "give it another value"),
        (["~callbacks"], "callbacks: is needed, so it cannot be deleted", "give it another value"),
        (["~lora"], "lora: is needed, so it cannot be deleted", "give it another option (lora, none)"),
        (["~logging"], "logging: is needed, so it cannot be deleted", "(default, mlflow, tensorboard, wandb)"),
        (["~hydra.job.name"], "hydra.job.name: is needed, so it cannot be deleted", ""),
        (["~exp"], "exp: has no option here, so none can be deleted", "leave ~exp out"),
        (["user.width=3", "~user.width"], "", ""),
        (["~loss.label_smoothing"], "loss.label_smoothing: is needed, so it cannot be deleted", ""),
        (["loss._target_=mine.Loss", "+loss.own=1"], "", ""),
        (["+optimizer.optimizer_params.amsgrad=true"], "", ""),
        (["+model.config.n_inner=8", "model.archive=null"], "", ""),
        (["+model.config.n_inner=8"], "model.config.n_inner: must be null with model.archive=embedded", "archive=null"),
        (["+user.width=3", "user.depth=2"], "", ""),
        (["callbacks=[{_target_: mine.Told, width: '${user.width}'}]", "user={width: 3}"], "", ""),
    ],
)
def test_an_added_key_is_checked_like_any(checker: PointChecker, overrides: list[str], problem: str, fix: str) -> None:
    result = next(checker.composer.compose_many([["loss.beta=0.1", *overrides]]))
    text = "\n".join(str(found) for found in checker.problems(result))
    assert problem in text
    assert fix in text
    assert bool(text) == bool(problem)


def test_added_keys_are_checked_at_every_point() -> None:
    text = report(["-m", "loss.beta=0.1,0.2", "+loss.betta=1,2"])
    assert text == (
        "1 problem, nothing was started:\n  - loss.betta: is not a key of this config\n      did you mean loss.beta?"
    )


def test_an_unknown_key_is_told_once_and_hides_nothing_else() -> None:
    text = report(["loss.beta=0.1", "+training.training_params.foo={a: 1}", "training.training_params.max_length=1"])
    assert text.startswith("2 problems")
    assert "training.training_params.foo.a: is not a key" in text
    assert "0 < max_prompt_length < max_length must hold" in text


def test_flags_and_files_are_answered_with_what_to_write() -> None:
    text = report(["--dry-run", "--lr", "3e-4", "--output-dir=D", "loss.beta=0.1"])
    assert text.startswith("3 problems")
    for fix in ("write dry_run=true", "write optimizer.optimizer_params.lr=3e-4", "write paths.output_dir=D"):
        assert fix in text
    assert "`gptopt plan params/x.json`" in report(["params/x.json", "loss.beta=0.1"])
    for arguments in (["mine.yaml"], ["--config", "mine.yaml"], ["--config=mine.yaml"]):
        text = report([*arguments, "loss.beta=0.1"])
        assert "`gptopt import-config mine.yaml -o hydra_conf/exp/mine.yaml`" in text
        assert "write +exp=mine" in text
    assert "      write +exp=hh_dpo" in report(["hydra_conf/exp/hh_dpo.yaml", "loss.beta=0.1"])


def test_an_option_is_answered_with_the_one_that_was_meant() -> None:
    assert "did you mean optimizer=adamw?" in report(["optimizer=AdamW", "loss.beta=0.1"])
    assert "write model=hf model.name_or_path=lab/gpt" in report(["model=lab/gpt", "loss.beta=0.1"])
    assert "one of the hub, or a path, is model=hf model.name_or_path=gpt2" in report(["model=gpt2"])
    assert "      write data=hf data.dataset.path=prefs.jsonl" in report(["data=prefs.jsonl", "loss.beta=0.1"])
    text = report(["+exp=hh_dpoo"])  # the experiment would say more keys: nothing is said of those
    assert text.startswith("1 problem,")
    assert "did you mean +exp=hh_dpo?" in text


def test_an_interpolation_to_nothing_on_the_command_line_is_named() -> None:
    assert "names a key that does not exist: ${sed}" in report(["exp_name=${sed}", "loss.beta=0.1"])


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["--help"], ["--info"], ["-cn", "other"]])
def test_what_runs_nothing_is_left_to_hydra(arguments: list[str]) -> None:
    check_command_line(CONFIG_DIR, arguments)


def test_a_sweep_in_the_config_is_checked_too(tmp_path: Path) -> None:
    folder = tmp_path / "hydra_conf"
    shutil.copytree(CONFIG_DIR, folder)
    text = "# @package _global_\nhydra: {sweeper: {params: {loss.beta: '0.1,-2', seed: 'range(0,2)'}}}\n"
    (folder / "exp" / "betas.yaml").write_text(text)
    points = PointChecker(own_app(folder)).points(["+exp=betas", "rerun=false"], multirun=True)
    assert len(points) == 4
    with pytest.raises(ConfigError, match=r"is -2\.0 \(2 of 4 points"):
        check_command_line(folder, ["-m", "+exp=betas"])


def test_points_are_those_of_hydras_sweeper(checker: PointChecker) -> None:
    points = checker.points(["loss.beta=0.1,0.2", "seed=range(0,2)", "loss=dpo"], multirun=True)
    assert points == [
        ["loss.beta=0.1", "seed=0", "loss=dpo"],
        ["loss.beta=0.1", "seed=1", "loss=dpo"],
        ["loss.beta=0.2", "seed=0", "loss=dpo"],
        ["loss.beta=0.2", "seed=1", "loss=dpo"],
    ]


@pytest.mark.parametrize("way", [["hydra.mode=MULTIRUN"], ["++hydra.mode=2"], ["+exp=many"]])
def test_a_multirun_is_checked_whichever_way_it_is_asked_for(way: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "hydra_conf"
    shutil.copytree(CONFIG_DIR, folder)
    (folder / "exp" / "many.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    with pytest.raises(ConfigError, match=r"loss.beta: must be a finite number above 0, but is -1.0 \(point 1 of 2\)"):
        check_command_line(folder, [*way, "loss.beta=0.1,-1"])
    check_command_line(folder, [*way, "loss.beta=0.1,0.2"])


def test_a_sweep_under_torchrun_is_refused_whichever_way_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for way in ("-m", "hydra.mode=MULTIRUN"):
        assert "--multirun: must not be given to torchrun, whose 2 processes" in report([way, "loss.beta=0.1,0.2"])


@pytest.mark.parametrize("value", ["interval(0.01,0.5)", "tag(log,interval(0.01,0.5))", "float(interval(0.1,1))"])
def test_a_sweep_that_needs_another_sweeper_is_named_as_such(value: str) -> None:
    text = report(["-m", f"loss.beta={value}", "seed=a"])
    assert text.startswith("2 problems")
    assert f"loss.beta: {value} is for a sweeper that draws values" in text
    assert "hydra/sweeper=optuna (pip install 'gpt-opt[optuna]')" in text


def test_a_sweep_that_gives_no_value_is_named() -> None:
    assert "loss.beta: must give at least one value, but glob(x*) gives none" in report(["-m", "loss.beta=glob(x*)"])
    assert "seed: must give at least one value" in report(["-m", "loss.beta=0.1", "seed=range(3,1)"])


OPTUNA = ["-m", "hydra/sweeper=optuna"]


def test_what_a_sweeper_draws_counts_as_given_and_the_rest_is_checked(tmp_path: Path) -> None:
    check_command_line(CONFIG_DIR, [*OPTUNA, "loss.beta=tag(log,interval(0.01,0.5))", "optimizer=adamw,rmsprop"])
    assert "loss.beta: is mandatory" in report([*OPTUNA, "seed=0,1"])
    assert "dry_run: must be false" in report([*OPTUNA, "loss.beta=interval(0.1,1)", "dry_run=true"])
    assert "loss.beta: must be a finite number above 0, but is -1.0" in report([*OPTUNA, "loss.beta=interval(-1,1)"])
    text = report([*OPTUNA, "loss.beta=interval(0.1,1)", "seed=0,x", "hydra.sweeper.n_trails=3"])
    for part in ("seed=x: must be an integer, but is 'x'", "did you mean hydra.sweeper.n_trials?"):
        assert part in text
    folder = tmp_path / "hydra_conf"
    shutil.copytree(CONFIG_DIR, folder)
    study = "# @package _global_\ndefaults: [override /hydra/sweeper: optuna]\nhydra:\n  mode: MULTIRUN\n"
    study += "  sweeper: {params: {loss.beta: 'interval(0.01,0.5)', seed: 'choice(0,1)'}}\n"
    (folder / "exp" / "study.yaml").write_text(study)
    check_command_line(folder, ["+exp=study"])
    with pytest.raises(ConfigError, match=r"micro_batch_size"):
        check_command_line(folder, ["+exp=study", "training.training_params.micro_batch_size=5"])


def test_a_study_optimizes_the_metric_in_its_direction() -> None:
    metric = ["training.finetuning.load_best_model_at_end=true"]
    metric += ["training.finetuning.metric_for_best_model=eval/rewards/accuracies", "loss.beta=interval(0.1,1)"]
    text = report([*OPTUNA, *metric])
    assert "hydra.sweeper.direction: must be maximize, since a run returns eval/rewards/accuracies" in text
    check_command_line(CONFIG_DIR, [*OPTUNA, *metric, "hydra.sweeper.direction=maximize"])


def test_resources_that_nobody_reads_are_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_command_line(CONFIG_DIR, ["-m", "loss.beta=0.1,0.2", "resources.gpus_per_run=2", "hydra/launcher=disbatch"])
    monkeypatch.setenv("GPTOPT_SWEEP", "betas")  # a run of a sweep, whose slot has read them
    check_command_line(CONFIG_DIR, ["loss.beta=0.1", "resources.gpus_per_run=2"])
    assert not caplog.messages
    monkeypatch.delenv("GPTOPT_SWEEP")
    check_command_line(CONFIG_DIR, ["loss.beta=0.1", "resources.gpus_per_run=2"])
    assert "resources.gpus_per_run=2: gptopt submit and hydra/launcher=disbatch alone read" in caplog.messages[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.beta=0.1", "hydra.job.name=mine", "hydra/job_logging=disabled"],
        ["+exp=hh_dpo", "optimizer.optimizer_params.lr=1e-3", "+hydra.job.env_set.A=b"],
    ],
)
def test_a_single_run_has_the_one_config_that_hydra_composes(overrides: list[str]) -> None:
    request = check_command_line(CONFIG_DIR, overrides)
    assert request is not None
    expected = load(loader(Configs(CONFIG_DIR)), "config", [*overrides, "hydra.mode=RUN"])
    found = request.loader.load_configuration("config", request.overrides, RunMode.RUN)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
    assert [point.config for point in request.points] == [plain(without_hydra(expected))]
