"""What `dragonfly status` tells of an etcd that is busy, which is asked again."""

import time
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Final

_PATIENCE: Final = 120.0


def once_answered(status: Callable[[], CompletedProcess[str]]) -> CompletedProcess[str]:
    """Return what is told once etcd answers, as a busy one may not within the 2 s that it is given."""
    deadline = time.monotonic() + _PATIENCE
    while "does not answer here" in (done := status()).stdout:
        assert time.monotonic() < deadline, done.stdout
    return done
