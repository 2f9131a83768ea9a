"""A post-training YAML of other tools as an experiment of ours: read, translated, composed, checked and written."""

from gpt_opt.own_app.import_config.experiment import Experiment, import_config

__all__ = ["Experiment", "import_config"]
