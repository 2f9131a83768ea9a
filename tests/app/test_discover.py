"""Applications are found by parsing: what their code and configs say, never an import."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_opt.app.discover import Found, app_of_file, find_apps
from gpt_opt.app.keys import TABLES
from gpt_opt.app.settings import read_settings
from gpt_opt.app.template import metrics_source, template
from tests.helpers.apps import APPS, copied

ONE = "import hydra\n@hydra.main({})\ndef main(cfg): pass\n"


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        file = root / name.replace("__", "/")
        file = file.with_name(file.name.replace("_py", ".py").replace("_yaml", ".yaml"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def only(root: Path) -> Found:
    (found,) = find_apps(root)
    return found


def test_the_script_that_trains_comes_first() -> None:
    train, evaluate = find_apps(APPS / "lightning_like")
    assert (str(train.file), str(evaluate.file)) == ("src/train.py", "src/eval.py")
    assert (train.module, train.config_path, train.config_name) == (None, "configs", "train")
    assert train.version_base == "1.3"


@pytest.mark.parametrize(
    "names",
    [
        ("scripts/train.py", "slurm/slurm_train.py"),
        ("train.py", "train_gan.py"),
        ("a/b/finetune.py", "main.py"),
        ("main.py", "tests/train.py"),
        ("main.py", "eval_main.py"),
    ],
)
def test_of_two_scripts_the_likelier_comes_first(tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path, **{name.replace(".py", "_py"): ONE.format("") for name in names})
    assert [str(app.file) for app in find_apps(tmp_path)] == list(names)


def test_what_a_config_says() -> None:
    train, _ = find_apps(APPS / "lightning_like")
    assert train.config.exclude == ("callbacks.model_checkpoint.verbose", "logger", "paths", "tags")
    assert (train.config.resume, train.config.checkpoints) == ("ckpt_path", "checkpoints/*.ckpt")
    assert train.config.seeds == ("seed",)
    assert [(item.source, item.needs) for item in train.config.logs] == [("csv", "logger=csv")]
    assert [str(item) for item in train.registers] == ["src/train.py:8 os.environ"]


def test_what_modules_of_the_repository_register_counts() -> None:
    app = only(APPS / "structured")
    assert [item.where for item in app.registers] == ["schema.py:26", "schema.py:27"]
    assert app.config_name == "config", "the name of a constant"
    assert metrics_source(app.code, app.config).value == "csv"


def test_a_script_that_imports_relative_to_itself_is_a_module() -> None:
    app = only(APPS / "module_like")
    assert (app.module, app.config_path, app.version_base) == ("project.fit", "project/conf", "1.1")
    assert only(APPS / "plain").module is None


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import project.models", "jobs.train"),
        ("import project.models, sys\nsys.path.append('..')", None),
        ("import near", None),
        ("import torch", None),
    ],
)
def test_a_script_that_imports_from_the_root_is_a_module(tmp_path: Path, line: str, module: str | None) -> None:
    write(tmp_path, jobs__train_py=f"{line}\n{ONE.format('')}", jobs__near_py="", near_py="", project__models_py="")
    (tmp_path / "project" / "__init__.py").touch()
    assert only(tmp_path).module == module


@pytest.mark.parametrize(
    ("call", "config_path", "config_name", "version_base"),
    [
        ('config_path="conf", config_name="main.yaml", version_base=None', "conf", "main", None),
        ('"conf", "main"', "conf", "main", "1.1"),
        ('version_base="1.2", config_path=os.path.join(HERE, "conf"), config_name="main"', "conf", "main", "1.2"),
        ('version_base="1.2", config_path="pkg://conf", config_name="main"', "conf", "main", "1.2"),
        ('version_base="1.3", config_name="main"', None, "main", "1.3"),
        ('config_name="main"', ".", "main", "1.1"),
        ('version_base="1.3", config_path="none", config_name=NAME + "x"', None, None, "1.3"),
    ],
)
def test_the_arguments_of_main(
    tmp_path: Path, call: str, config_path: str | None, config_name: str | None, version_base: str | None
) -> None:
    write(tmp_path, train_py=ONE.format(call), conf__main_yaml="a: 1\n")
    app = only(tmp_path)
    assert (app.config_path, app.config_name, app.version_base) == (config_path, config_name, version_base)


@pytest.mark.parametrize("head", ["import hydra as h\n@h.main", "from hydra import main as m\n@m"])
def test_other_names_of_main(tmp_path: Path, head: str) -> None:
    write(tmp_path, train_py=head + '(version_base=None, config_name="x")\ndef f(cfg): pass\n')
    assert only(tmp_path).config_name == "x"


def test_hydra_zen(tmp_path: Path) -> None:
    text = """from hydra_zen import store, zen
store(dict, name="train")
if __name__ == "__main__":
    store.add_to_hydra_store()
    zen(print).hydra_main(config_name="train", config_path=None, version_base="1.3")
"""
    write(tmp_path, train_py=text)
    app = only(tmp_path)
    assert (app.config_path, app.config_name, app.version_base) == (None, "train", "1.3")
    assert [item.what for item in app.registers] == ["store.add_to_hydra_store"]


def test_what_is_no_application(tmp_path: Path) -> None:
    write(
        tmp_path, a_py="import hydra\nhydra.utils.instantiate({})\n", b_py="def broken(: hydra.main\n", c_py="# hydra\n"
    )
    write(tmp_path, **{".venv__lib__d_py": ONE, "env__e_py": ONE, "env__pyvenv.cfg": "", "outputs__f_py": ONE})
    assert find_apps(tmp_path) == []
    assert app_of_file(tmp_path, tmp_path / "a.py") is None


def test_nothing_is_imported(tmp_path: Path) -> None:
    body = "raise SystemExit('imported')\n"
    write(tmp_path, train_py="import other\n" + ONE.format("") + body, other_py=body)
    assert only(tmp_path).file == Path("train.py")


@pytest.mark.parametrize(
    ("line", "starts"),
    [
        ("DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'", "torch.cuda.is_available"),
        ("x = torch.zeros(3, device='cuda:0')", "torch.zeros on cuda"),
        ("class A:\n    x = torch.zeros(3).cuda()", ".cuda()"),
        ("import jax", "import jax"),
        ("torch.cuda.manual_seed_all(0)", None),
        ("torch.backends.cuda.matmul.allow_tf32 = True", None),
        ("def f():\n    torch.cuda.init()", None),
        ("if __name__ == '__main__':\n    torch.cuda.init()", None),
        ("f = lambda: torch.cuda.init()", None),
    ],
)
def test_who_starts_cuda_on_import_is_not_forked(tmp_path: Path, line: str, starts: str | None) -> None:
    write(
        tmp_path,
        train_py="import torch, transformers\nimport models\n" + ONE.format(""),
        models_py=f"import torch\n{line}\n",
    )
    code = only(tmp_path).code
    assert code.warm_imports == ("torch", "transformers")
    assert [item.what for item in code.keeps_from_forking] == ([starts] if starts else [])
    assert ("warm_imports = []\n" in template(only(tmp_path))) == bool(starts)


@pytest.mark.parametrize(
    ("code", "config", "source"),
    [
        ("gpt_opt.report(loss=1)\nSummaryWriter()", "a: 1", "report"),
        ("from gpt_opt.integrations.transformers import Callback", "a: 1", "report"),
        ("from torch.utils.tensorboard import SummaryWriter\nSummaryWriter()", "a: 1", "tensorboard"),
        ("from transformers import Trainer", "a: 1", "trainer_state"),
        ("wandb.init()", "a: 1", "wandb"),
        ("wandb.init()", "logger: {_target_: lightning.pytorch.loggers.CSVLogger}", "csv"),
        ("import lightning", "a: 1", "tensorboard"),
        ("", "a: 1", "report"),
    ],
)
def test_the_surest_source_of_metrics(tmp_path: Path, code: str, config: str, source: str) -> None:
    call = 'version_base=None, config_path="conf", config_name="main"'
    write(tmp_path, train_py=f"{code}\n{ONE.format(call)}", conf__main_yaml=config)
    assert metrics_source(only(tmp_path).code, only(tmp_path).config).value == source


def test_a_resolver_of_the_main_block_counts(tmp_path: Path) -> None:
    main = "if __name__ == '__main__':\n    OmegaConf.register_new_resolver('a', str)\n    main()\n"
    write(tmp_path, train_py=ONE.format("") + main)
    assert [item.what for item in only(tmp_path).registers] == ["OmegaConf.register_new_resolver"]


@pytest.mark.parametrize("name", ["plain", "structured", "lightning_like", "module_like"])
def test_the_file_that_is_written_is_right_and_explains_itself(name: str, tmp_path: Path) -> None:
    root = copied(name, tmp_path)
    text = template(find_apps(root)[0])
    (root / "gptopt.toml").write_text(text)
    settings = read_settings(root / "gptopt.toml")
    assert (settings.checkpoints is not None) == (name == "lightning_like")
    assert settings.registers == (name in ("structured", "lightning_like"))
    assert max(map(len, text.splitlines())) <= 120
    given = [line.split(" = ")[0].removeprefix("# ") for line in text.splitlines() if " = " in line]
    known = {key for table in TABLES.values() for key in table}
    assert set(given) <= known
    assert all(
        TABLES[table][key].doc.split(";")[0].split(",")[0][:30] in text
        for table in TABLES
        for key in TABLES[table]
        if key in given
    )


def test_configs_in_the_root_are_not_sought_among_the_runs(tmp_path: Path) -> None:
    write(tmp_path, train_py=ONE.format('version_base=None, config_path=".", config_name="cfg"'), cfg_yaml="seed: 1\n")
    for name in ("multirun/2026-01-01/1-2/multirun.yaml", "wandb/run-1/files/config.yaml", "env/lib/a.yaml"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("logger: {_target_: CSVLogger}\nckpt_path: null\ntags: [a]\n")
    (tmp_path / "wandb" / "latest-run").symlink_to("run-1")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    config = only(tmp_path).config
    assert (config.exclude, config.logs, config.seeds) == ((), (), ("seed",))


def test_what_must_come_before_an_import_is_not_imported_before_it(tmp_path: Path) -> None:
    main = ONE.format("")
    write(tmp_path, train_py=f"import os\nos.environ['HF_HOME'] = '/scratch'\nimport transformers\n{main}")
    assert "warm_imports = []" in template(only(tmp_path))
    write(tmp_path, train_py=f"import rootutils\nrootutils.setup_root('.')\nimport transformers\n{main}")
    assert 'warm_imports = ["transformers"]' in template(only(tmp_path))
