"""Lets the defaults list of any file override Hydra's own groups: `- override hydra/job_logging: colorlog`.

Hydra reads that form in the root config alone, and what stands there beats what another file says. So our options of
Hydra's groups are defaults of Hydra's root, `hydra/config`, where they exist, and not overrides in ours.

A private method is replaced, since no plugin sees a defaults list before Hydra follows it. Without it a file of the
group training would have to say `override /hydra/job_logging@_global_.hydra.job_logging`; and an entry of the
ConfigStore can give `hydra/config` other defaults, but not only in config folders that have these options.
"""

from __future__ import annotations

from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.default_element import GroupDefault

_OURS = {"job_logging": "task", "hydra_logging": "plain"}


def override_hydra_anywhere() -> None:
    """Teaches Hydra's reader of defaults lists."""
    read = ConfigRepository._create_defaults_list

    def read_all(self: ConfigRepository, config_path: str, defaults: Any) -> Any:
        found = read(self, config_path, defaults)
        for item in found:
            if isinstance(item, GroupDefault) and config_path == "hydra/config":
                ours = _OURS.get(item.group or "")
                if ours and self.config_exists(f"hydra/{item.group}/{ours}"):
                    item.value = ours
            elif isinstance(item, GroupDefault) and item.override and "/" in config_path:
                group = (item.group or "").lstrip("/")
                if group.startswith("hydra/") and item.package is None:
                    item.group, item.package = f"/{group}", f"_global_.{group.replace('/', '.')}"
        return found

    ConfigRepository._create_defaults_list = read_all  # type: ignore[method-assign]
