"""What `dragonfly status --local` says of each kind of kubeconfig: real processes, a real API server, and a real etcd.

Etcd is given by settings, so that the exit code is that of the way to the cluster alone.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane
from dragonfly.sandbox.pki import Authority
from dragonfly.sandbox.ports import LOOPBACK, PortLease
from tests.integration.install.answered import once_answered

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Document = dict[str, Any]
_EXEC: Final = "client.authentication.k8s.io/v1"
_FIELD: Final = "{config}: users[dragonfly].user"


class Files:
    """A directory with a kubeconfig that works, to be changed and written."""

    def __init__(self, directory: Path, plane: ControlPlane, nobody: int) -> None:
        """`nobody`: a port on which nobody listens."""
        self.directory = directory
        self.config = directory / "config"
        self.nobody = nobody
        self.plane = plane
        self.document: Document = yaml.safe_load(plane.kubeconfig.read_text())
        self.cluster: Document = self.document["clusters"][0]["cluster"]
        self.user: Document = self.document["users"][0]["user"]
        self.environment: dict[str, str] = {}
        """What the process is told besides."""

    def write(self) -> str:
        """Return KUBECONFIG."""
        self.config.write_text(yaml.safe_dump(self.document))
        return str(self.config)

    def log_in_by(self, script: str) -> None:
        """Have an exec plugin, which runs this, instead of a token."""
        plugin = self.directory / "bin" / "login"
        plugin.parent.mkdir()
        plugin.write_text(f"#!/bin/sh\n{script}\n")
        plugin.chmod(0o755)
        self.user.clear()
        self.user["exec"] = {"apiVersion": _EXEC, "command": "bin/login"}


def good(files: Files) -> str:
    return files.write()


def relative_paths(files: Files) -> str:
    (files.directory / "pki").mkdir()
    (files.directory / "pki" / "ca.pem").write_bytes(base64.b64decode(files.cluster.pop("certificate-authority-data")))
    (files.directory / "token").write_text(files.user.pop("token"))
    files.cluster["certificate-authority"] = "pki/ca.pem"
    files.user["tokenFile"] = "./token"
    return files.write()


def several_files(files: Files) -> str:
    """The first has the user, the second the rest and another user of that name; one is not there."""
    first = files.directory / "first"
    first.write_text(yaml.safe_dump({"users": files.document["users"]}))
    files.document["users"] = [{"name": "dragonfly", "user": {"token": "wrong"}}]
    return f"{files.directory}/gone:{first}:{files.write()}"


def exec_plugin(files: Files) -> str:
    said = {"apiVersion": _EXEC, "kind": "ExecCredential", "status": {"token": files.user["token"]}}
    files.log_in_by(f"cat <<END\n{json.dumps(said)}\nEND")
    return files.write()


def exec_plugin_that_fails(files: Files) -> str:
    files.log_in_by("echo looking >&2; echo sign in first >&2; exit 3")
    return files.write()


def exec_plugin_that_is_not_there(files: Files) -> str:
    files.user.clear()
    files.user["exec"] = {"apiVersion": _EXEC, "command": "./login", "installHint": "get it from example.org"}
    return files.write()


def expired_certificate(files: Files) -> str:
    past = Authority(files.directory / "past", "past", dt.datetime(2020, 1, 1, tzinfo=dt.UTC)).client("ada")
    files.user.clear()
    files.user |= {"client-certificate": str(past.certificate), "client-key": str(past.key)}
    return files.write()


def wrong_authority(files: Files) -> str:
    stranger = Authority(files.directory / "stranger", "stranger", dt.datetime.now(dt.UTC))
    files.cluster["certificate-authority-data"] = base64.b64encode(stranger.ca.read_bytes()).decode()
    return files.write()


def another_name(files: Files) -> str:
    files.cluster["tls-server-name"] = "elsewhere.example"
    return files.write()


def no_rights(files: Files) -> str:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "default"}}
    files.plane.apiserver.admin.apply(account)
    return str(files.plane.apiserver.kubeconfig(files.config, "default", "nobody", token_hours=1))


def unreachable(files: Files) -> str:
    files.cluster["server"] = f"https://{LOOPBACK}:{files.nobody}"
    return files.write()


def broken_yaml(files: Files) -> str:
    files.config.write_text("apiVersion: v1\nusers: [{name: ada, user: {token: hunter2}\n")
    return str(files.config)


def missing_file(files: Files) -> str:
    return str(files.config)


def empty_file(files: Files) -> str:
    files.config.write_text("")
    return str(files.config)


def no_current_context(files: Files) -> str:
    del files.document["current-context"]
    return files.write()


def unknown_context(files: Files) -> str:
    files.environment["DRAGONFLY_CONTEXT"] = "muc"
    return files.write()


def no_credentials(files: Files) -> str:
    files.user.clear()
    return files.write()


def unknown_token(files: Files) -> str:
    files.user["token"] = "hunter2"
    return files.write()


class Case(NamedTuple):
    """A kubeconfig, and what is told of it."""

    make: Callable[[Files], str]
    told: str
    """In the line of the kubeconfig, with `{config}`, `{directory}` and `{nobody}`."""
    advice: str = ""
    """What is to be done; empty if nothing is, and the exit code is 0."""


_REACHES: Final = "reaches Kubernetes v"
_MEND: Final = "Mend the kubeconfig"
_TAKE_CA: Final = "take its CA into it"
TABLE: Final = (
    Case(good, _REACHES),
    Case(relative_paths, _REACHES),
    Case(several_files, _REACHES),
    Case(exec_plugin, _REACHES),
    Case(
        exec_plugin_that_fails,
        f"{_FIELD}.exec: plugin {{directory}}/bin/login ended with 3: sign in first",
        "Let the kubeconfig's exec plugin give credentials",
    ),
    Case(
        exec_plugin_that_is_not_there,
        f"{_FIELD}.exec: plugin {{directory}}/login cannot run it: No such file or directory; get it from example.org",
        "Let the kubeconfig's exec plugin give credentials",
    ),
    Case(expired_certificate, f"{_FIELD}.client-certificate: expired at 2020-12-31T00:00:00Z; get a new one", _MEND),
    Case(wrong_authority, "(the kubeconfig's certificate-authority is not its issuer)", _TAKE_CA),
    Case(another_name, "(tls-server-name may say another name)", _TAKE_CA),
    Case(no_rights, _REACHES, "give them Dragonfly's rights in its namespace (deploy/k3s/base/rbac.yaml)"),
    Case(
        unreachable,
        f"https://{LOOPBACK}:{{nobody}}: connection refused by {LOOPBACK}:{{nobody}}",
        "Look whether the cluster is there and whether it can be reached from here",
    ),
    Case(broken_yaml, "{config}: is no valid YAML: line 3, column 1", _MEND),
    Case(missing_file, "no kubeconfig at {config}", "Set KUBECONFIG to a file that is there"),
    Case(empty_file, "{config}: current-context: is empty; there is no context at all", _MEND),
    Case(no_current_context, "{config}: current-context: is empty; there is sandbox", _MEND),
    Case(unknown_context, "the kubeconfig has no context 'muc'; there is sandbox", _MEND),
    Case(no_credentials, f"{_FIELD}: has no credentials: it needs a token", "Get new credentials for that cluster"),
    Case(
        unknown_token,
        "the API server does not accept the credentials: they are wrong, or have expired",
        "Get new credentials for that cluster",
    ),
)


@pytest.fixture(scope="module")
def nobody() -> Iterator[int]:
    with PortLease() as ports:
        yield ports.take()


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.make.__name__)
def test_what_is_told_of_a_kubeconfig(case: Case, control_plane: ControlPlane, nobody: int, tmp_path: Path) -> None:
    files = Files(tmp_path, control_plane, nobody)
    kubeconfig = case.make(files)
    done = once_answered(lambda: _status(kubeconfig, control_plane, tmp_path, files.environment))

    words = {"config": str(files.config), "directory": str(tmp_path), "nobody": str(nobody)}
    [line] = [line for line in done.stdout.splitlines() if line.strip().startswith("kubeconfig ")]
    assert case.told.format(**words) in line, done.stdout
    advice = done.stdout.partition("To do:")[2]
    assert case.advice in advice, done.stdout
    assert done.returncode == bool(case.advice), done.stdout
    assert "hunter2" not in done.stdout + done.stderr, "P11"
    assert "ClientConnector" not in done.stdout


def _status(
    kubeconfig: str, plane: ControlPlane, home: Path, told: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRAGONFLY_", "KUBE"))}
    env = kept | {
        "HOME": str(home),
        "KUBECONFIG": kubeconfig,
        "DRAGONFLY_NAMESPACE": NAMESPACE,
        "DRAGONFLY_ETCD_ENDPOINTS": ",".join(plane.etcd_endpoints),
        "DRAGONFLY_ETCD_CA_FILE": str(plane.etcd_ca),
        "DRAGONFLY_ETCD_CERT_FILE": str(plane.etcd_cert),
        "DRAGONFLY_ETCD_KEY_FILE": str(plane.etcd_key),
    }
    command = (sys.executable, "-m", "dragonfly", "status", "--local")
    return subprocess.run(
        command, env=env | dict(told), cwd=home, capture_output=True, text=True, check=False, timeout=120
    )
