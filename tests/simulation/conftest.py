"""Histories say nothing while they run, and other tests do; a trace is told when a promise is broken."""

from collections.abc import Iterator

import pytest
import structlog

from tests.simulation.bugs import be_quiet


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    before = structlog.get_config()
    be_quiet()
    yield
    structlog.configure(**before)
