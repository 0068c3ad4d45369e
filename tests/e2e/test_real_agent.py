"""One machine for real: tink-agent runs the actions of a provision in containers, and what they wrote is there."""

import io
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dragonfly.sandbox import toolchain
from dragonfly.sandbox.process import Program, Service
from tests.e2e.docker_daemon import Daemon, running_daemon
from tests.e2e.docker_proxy import single, unprivileged
from tests.e2e.fleet import ENDS, workflow, writes_of
from tests.e2e.site import Machine, Site
from tests.e2e.waiting import eventually

AWKWARD: Final = """it's "quoted" and  spaced, $HOME `id` \\n {{ .device_1 }} #: ü\tend"""
SHELL: Final = "/bin/sh"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    # A socket's path has 108 bytes at most.
    with running_daemon(tmp_path_factory.mktemp("d")) as daemon:
        yield daemon


@pytest.fixture
def image(daemon: Daemon) -> Iterator[str]:
    """A shell and nothing else. Nothing listens at its registry's port: the agent must use what is there."""
    with daemon.image(f"127.0.0.1:1/e2e/shell-{uuid.uuid4().hex[:8]}:1", _filesystem(SHELL)) as name:
        yield name


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.docker
def test_tink_agent_carries_out_a_provision_in_containers(
    site: Site, daemon: Daemon, image: str, tmp_path: Path
) -> None:
    machine = site.machines(1)[0]
    document = machine.document()
    document["spec"]["hostname"] = "metal.example.org"
    site.api.post("machines", document)
    output = tmp_path / "disk"
    output.mkdir()
    template = site.template("two-containers", _template(image, output))

    with daemon.for_agents(tmp_path, image, [SHELL, "-c", ":"]) as socket:
        agent = _agent(site, machine, socket, tmp_path / "agent.log")
        try:
            agent.start()
            provision = site.provision(machine, template, text=AWKWARD)
            eventually("it has ended", lambda: site.phase(provision) in ENDS, within=180)
        finally:
            agent.stop()

    status = site.status(provision)
    assert status["phase"] == "Succeeded", (status, agent.program.log.read_text())
    assert [(action["name"], action["state"]) for action in status["actions"]] == [
        ("write-text", "Succeeded"),
        ("append-hostname", "Succeeded"),
    ]
    assert (output / "etc-motd").read_text() == f"{AWKWARD}\n{AWKWARD}\nmetal.example.org\n"
    assert writes_of(site.audit(), [provision]) == {provision: (1, 1)}
    assert site.workflows()[workflow(provision)]["status"]["state"] == "SUCCESS"
    eventually("netboot is closed", lambda: site.netboot()[machine.name] == [False], within=60)


def test_the_proxy_takes_the_wish_for_privileges_out_and_no_other() -> None:
    head = b"POST /v1.41/containers/create?name=x HTTP/1.1\r\nContent-Length: 54\r\nHost: docker\r\n\r\n"
    body = b'{"Image": "i", "HostConfig": {"Privileged": true, "Binds": ["/a:/b"]}}'

    changed_head, changed = unprivileged(head, body)

    assert changed == body.replace(b"true", b"false")
    assert b"Content-Length: %d\r\n" % len(changed) in changed_head


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_the_proxy_lets_no_second_request_through_a_connection(connection: bytes) -> None:
    head = b"GET /version HTTP/1.1\r\n" + connection + b"Host: docker\r\n\r\n"

    assert single(head) == b"GET /version HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


def test_the_proxy_leaves_streams_alone() -> None:
    head = b"POST /containers/x/attach HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"

    assert single(head) == head


def _template(image: str, output: Path) -> dict[str, Any]:
    volumes = [f"{output}:/disk"]
    write = 'printf "%s\\n" "$TEXT" "$1" >/disk/etc-motd'
    append = 'printf "%s\\n" "$1" >>/disk/etc-motd'
    return {
        "parameters": {"properties": {"text": {"type": "string"}}, "required": ["text"]},
        "globalTimeout": 300,
        "actions": [
            {
                "name": "write-text",
                "image": image,
                "timeout": 60,
                "command": [SHELL, "-c", write, "sh", "{{ parameters.text }}"],
                "environment": {"TEXT": "{{ parameters.text }}"},
                "volumes": volumes,
            },
            {
                "name": "append-hostname",
                "image": image,
                "timeout": 60,
                "command": [SHELL, "-c", append, "sh", "{{ machine.hostname }}"],
                "volumes": volumes,
            },
        ],
    }


def _agent(site: Site, machine: Machine, socket: Path, log: Path) -> Service:
    flags = ["-id", machine.mac, "-grpc-server", site.plane.tink_server, "-attribute-detection=false"]
    flags += ["-runtime", "docker", "-docker-socket", str(socket)]
    return Service(Program("tink-agent", (str(toolchain.binary("tink-agent")), *flags), log), lambda: True, within=5)


def _filesystem(program: str) -> bytes:
    """A tar archive of the program and of the libraries that it is linked with."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    libraries = [word for word in listed.split() if word.startswith("/")]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for path in [program, *libraries]:
            tar.add(path, arcname=path)
    return archive.getvalue()
