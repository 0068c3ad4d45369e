"""An operator at an installed host: a simulated machine, and a provision of it by the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from tests.e2e.fleet import two_actions
from tests.e2e.install.bare_host import BareHost, Done

_TINK_SERVER: Final = 42113
"""A port of Tinkerbell's Service, as its chart has it."""
_MAC: Final = "02:00:00:00:00:11"
_TEMPLATE: Final = "ubuntu"
_MACHINE: Final = "m-1"


def documents() -> list[dict[str, Any]]:
    """A template and a machine."""
    interfaces, disks = [{"mac": _MAC, "dhcp": True}], [{"device": "/dev/sda"}]
    return [
        {"kind": "Template", "metadata": {"name": _TEMPLATE}, "spec": two_actions()},
        {"kind": "Machine", "metadata": {"name": _MACHINE}, "spec": {"interfaces": interfaces, "disks": disks}},
    ]


def provisioned(host: BareHost, installed: dict[str, Any], directory: Path) -> Done:
    """Apply both, and provision the machine; how the command that waits for it ended."""
    documents_file, macs, trace = (directory / name for name in ("documents.yaml", "macs", "trace.jsonl"))
    documents_file.write_text(yaml.safe_dump_all(documents()))
    macs.write_text(_MAC)
    flags = (
        "--server",
        f"{host.address}:{_TINK_SERVER}",
        "--ids-file",
        str(macs),
        "--trace",
        str(trace),
        "--seconds",
        "0.1",
        "0.2",
    )
    command = (sys.executable, "-m", "dragonfly.sandbox", "agents", *flags)
    swarm = ("env", f"DRAGONFLY_SERVER={installed['address']}", f"DRAGONFLY_TOKEN={installed['token']}")
    machine = host.service("machine", *command, ready=trace.exists, within=60)
    try:
        machine.start()
        applied = host.run(*swarm, sys.executable, "-m", "dragonfly", "apply", "-f", str(documents_file))
        assert applied.code == 0, applied
        words = ("provision", _MACHINE, _TEMPLATE, "--wait", "--timeout", "240", "--output", "json")
        return host.run(*swarm, sys.executable, "-m", "dragonfly", *words)
    finally:
        machine.kill()
