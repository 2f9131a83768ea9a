"""The config tree of the compose tests, composed by Hydra's public interface."""

from __future__ import annotations

import pytest

from tests.plan import compose_schema


@pytest.fixture(scope="session", autouse=True)
def _schema() -> None:
    compose_schema.register()
