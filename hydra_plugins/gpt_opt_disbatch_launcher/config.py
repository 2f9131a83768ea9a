"""The keys of `hydra/launcher=disbatch`."""

# Annotations must not be strings here: Hydra executes a plugin's modules before it enters them into sys.modules, where
# dataclasses would look strings up.
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore


@dataclass
class DisBatchLauncherConf:
    """What `hydra.launcher.*` may say; a null leaves it to what is said in brackets.

    Attributes:
        slots: Runs at a time on this machine (as many as its GPUs, or else its cores, take). Inside a Slurm
            allocation every task of the allocation is a slot, and this key is not read.
        gpus_per_run: GPUs of one run; 0 for none, several start it with torchrun (resources.gpus_per_run, or else one
            where there are GPUs).
        runs_per_gpu: Runs that share one GPU (resources.runs_per_gpu, or else 1).
        cpus_per_run: CPU cores of one run (resources.cpus_per_run, or else a fair share of the cores).
    """

    _target_: str = "hydra_plugins.gpt_opt_disbatch_launcher.launcher.DisBatchLauncher"
    slots: int | None = None
    gpus_per_run: int | None = None
    runs_per_gpu: int | None = None
    cpus_per_run: int | None = None


ConfigStore.instance().store(
    group="hydra/launcher", name="disbatch", node=DisBatchLauncherConf, provider="gpt_opt_disbatch_launcher"
)
