"""deploy/vm/dragonfly.service, and the socket beside it: systemd finds no fault with it, and little that it exposes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dragonfly.settings import SETTINGS

pytestmark = pytest.mark.slow

UNIT = Path(__file__).parents[2] / "deploy" / "vm" / "dragonfly.service"
SOCKET = UNIT.with_suffix(".socket")
MOST_EXPOSED = 15
"""Of 100, as systemd-analyze counts; a unit that says nothing has 96."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that is on this computer."""
    text = UNIT.read_text()
    assert "ExecStart=/opt/dragonfly/bin/dragonfly server" in text
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/dragonfly/bin/dragonfly", str(Path("/bin/true").resolve())))
    (tmp_path / SOCKET.name).write_text(SOCKET.read_text())
    return unit


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "scripts/ensure-test-programs installs systemd, which has systemd-analyze"
    return subprocess.run([analyze, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_systemd_understands_every_line(unit: Path) -> None:
    found = analyzed("verify", "--man=no", str(unit), str(unit.with_suffix(".socket")))

    assert (found.returncode, found.stderr) == (0, "")


def test_the_socket_is_one_at_the_port_that_replicas_listen_on() -> None:
    listens = re.findall(r"^Listen\w+=(.*)$", SOCKET.read_text(), re.MULTILINE)
    (default,) = (setting.default for setting in SETTINGS if setting.field == "listen")

    assert listens == [default]


def test_it_exposes_little(unit: Path) -> None:
    found = analyzed("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", str(unit))

    assert found.returncode == 0, found.stdout


def test_it_tells_settings_that_there_are_and_files_that_it_has() -> None:
    text = UNIT.read_text()
    credentials = dict(re.findall(r"^LoadCredential=([^:]+):(.*)$", text, re.MULTILINE))
    told = dict(re.findall(r"^Environment=(\w+)=%d/(.*)$", text, re.MULTILINE))

    known = {setting.env for setting in SETTINGS}
    assert told.keys() <= known
    assert set(told.values()) == credentials.keys()
    assert all(path == f"/etc/dragonfly/credentials/{name}" for name, path in credentials.items())


WAYS = ("etcd-password.conf", "relay.conf")
"""Drop-ins for other ways into etcd than a certificate."""


@pytest.mark.parametrize("way", WAYS)
def test_another_way_into_etcd_names_no_file_that_it_does_not_hand_over(way: str) -> None:
    added = (UNIT.parent / way).read_text()
    text = UNIT.read_text() + added
    handed = text.rpartition("LoadCredential=\n")[2]
    credentials = dict(re.findall(r"^LoadCredential=([^:]+):(.*)$", handed, re.MULTILINE))
    (unset,) = re.findall(r"^UnsetEnvironment=(.*)$", text, re.MULTILINE)
    told = dict(re.findall(r"^Environment=(\w+)=%d/(.*)$", text, re.MULTILINE))

    assert told.keys() <= {setting.env for setting in SETTINGS}
    assert set(unset.split()) <= told.keys()
    assert {name for variable, name in told.items() if variable not in unset.split()} == credentials.keys()


@pytest.mark.parametrize("way", WAYS)
def test_systemd_understands_every_line_of_another_way(unit: Path, way: str) -> None:
    beside = unit.with_name(f"{unit.name}.d")
    beside.mkdir()
    (beside / way).write_text((UNIT.parent / way).read_text())

    found = analyzed("verify", "--man=no", str(unit), str(unit.with_suffix(".socket")))

    assert (found.returncode, found.stderr) == (0, "")
