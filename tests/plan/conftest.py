"""The config tree of the compose tests, composed by Hydra's public interface."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.plan import compose_schema

settings.register_profile("compose-quick", max_examples=14, deadline=None)
settings.register_profile("compose-thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "compose-quick"))


@pytest.fixture(scope="session", autouse=True)
def _schema() -> None:
    compose_schema.register()
