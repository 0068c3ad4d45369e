"""What a unit and its containers left running is ended before anything goes on."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from dragonfly.install.control_groups import end_all


@pytest.mark.parametrize(
    "group",
    [
        "kubepods.slice/kubepods-besteffort.slice/pod-1",
        "pids/kubepods/burstable/pod-1/container",
        "systemd/system.slice/k3s.service",
    ],
)
def test_what_runs_there_is_gone_when_it_returns(tmp_path: Path, group: str) -> None:
    """It is killed, and waited for: the kernel takes it from the group only when its last thread has ended."""
    process = subprocess.Popen(["sleep", "600"])
    file = tmp_path / group / "cgroup.procs"
    file.parent.mkdir(parents=True)
    file.write_text(f"{process.pid}\n")

    def as_the_kernel_does() -> None:
        process.wait(60)
        threading.Event().wait(0.2)
        file.write_text("")

    kernel = threading.Thread(target=as_the_kernel_does)
    kernel.start()
    end_all(tmp_path, "k3s.service")
    left = file.read_text()
    kernel.join()
    assert process.returncode == -signal.SIGKILL
    assert left == ""


def test_what_runs_elsewhere_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        file = tmp_path / "system.slice/sshd.service/cgroup.procs"
        file.parent.mkdir(parents=True)
        file.write_text(f"{process.pid}\n")
        end_all(tmp_path, "k3s.service")
        assert process.poll() is None
        process.kill()
