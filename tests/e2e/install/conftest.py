"""A bare host for one test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.install.bare_host import BareHost
from tests.e2e.install.installed import hosts


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BareHost]:
    with hosts(tmp_path, 1) as (found,):
        yield found
