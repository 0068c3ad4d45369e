"""The demo's machines and templates, as bodies for Dragonfly's own HTTP API. Pure."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_BASE_MAC: Final = 0x02_DF_00_00_00_00  # locally administered: no vendor has it


def mac(number: int) -> str:
    """The MAC of the machine of that number, from 0: lower case, as Tinkerbell wants its agents' ids."""
    return ":".join(f"{byte:02x}" for byte in (_BASE_MAC + number + 1).to_bytes(6, "big"))


class Kind(NamedTuple):
    """A kind of machine that a data centre buys by the dozen."""

    name: str
    tags: tuple[str, ...]
    disks: tuple[dict[str, Any], ...]
    second_interface: bool
    firmware: str


KINDS: Final = (
    Kind("compute", ("gpu", "batch"), ({"device": "/dev/nvme0n1"},), second_interface=True, firmware="uefi"),
    Kind(
        "storage",
        ("ceph",),
        ({"device": "/dev/sda"}, {"device": "/dev/sdb"}, {"device": "/dev/sdc"}),
        second_interface=True,
        firmware="uefi",
    ),
    Kind("edge", ("remote",), ({"device": "/dev/mmcblk0"},), second_interface=False, firmware="bios"),
)

# Birds that hunt: easy to tell apart on the phone at three in the morning.
_NAMES: Final = (
    "kestrel", "merlin", "osprey", "harrier", "goshawk", "buzzard", "falcon", "kite", "condor", "caracara",
    "hobby", "lanner", "saker", "eagle", "shikra", "besra", "owl", "shrike", "petrel", "skua",
    "heron", "ibis", "crane", "raven",
)  # fmt: skip


def machines(count: int) -> Iterator[dict[str, Any]]:
    """Bodies for `POST /api/v1/machines`, of the three kinds in turn."""
    for number in range(count):
        yield _machine(number, KINDS[number % len(KINDS)])


def _machine(number: int, kind: Kind) -> dict[str, Any]:
    name = _name(number)
    return {
        "metadata": {
            "name": name,
            "labels": {"kind": kind.name, "rack": f"r{number // 8 + 1:02d}"},
            "tags": list(kind.tags),
        },
        "spec": {
            "cluster": "local",
            "hostname": name,
            "interfaces": list(_interfaces(number, kind)),
            "arch": "x86_64",
            "firmware": kind.firmware,
            "disks": list(kind.disks),
        },
    }


def _interfaces(number: int, kind: Kind) -> Iterator[dict[str, Any]]:
    third, fourth = divmod(number, 240)
    yield {"mac": mac(number), "address": f"10.64.{third}.{fourth + 10}/16", "gateway": "10.64.0.1"}
    if kind.second_interface:
        yield {"mac": _second_mac(number), "address": f"10.65.{third}.{fourth + 10}/16"}


def _second_mac(number: int) -> str:
    return mac(number + 0x80_0000)


def _name(number: int) -> str:
    round_, place = divmod(number, len(_NAMES))
    return f"m-{_NAMES[place]}" if round_ == 0 else f"m-{_NAMES[place]}-{round_ + 1}"


def templates() -> Iterator[dict[str, Any]]:
    """Bodies for `POST /api/v1/templates`: two systems, with parameters, of actions that Tinkerbell users know."""
    yield _template("ubuntu-2404", {"family": "ubuntu", "version": "24.04", "arch": "x86_64"}, "noble-server-cloudimg")
    yield _template("debian-13", {"family": "debian", "version": "13", "arch": "x86_64"}, "debian-13-generic")


def _template(name: str, system: dict[str, str], image: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "os": system,
            "parameters": {
                "type": "object",
                "properties": {
                    "mirror": {"type": "string", "default": "http://10.64.0.1/images"},
                    "sshKey": {"type": "string", "default": ""},
                },
                "additionalProperties": False,
            },
            "globalTimeout": 1_800,
            "actions": list(_actions(image)),
        },
    }


def _actions(image: str) -> Iterator[dict[str, Any]]:
    disk = {"DEST_DISK": "{{ machine.disk }}"}
    yield _action("wipe-disk", "rootio", disk, ["wipe"])
    yield _action(
        "stream-image",
        "image2disk",
        {**disk, "IMG_URL": f"{{{{ parameters.mirror }}}}/{image}.raw.gz", "COMPRESSED": "true"},
    )
    yield _action(
        "write-hostname",
        "writefile",
        {**disk, "DEST_PATH": "/etc/hostname", "CONTENTS": "{{ machine.hostname }}", "MODE": "0644"},
    )
    yield _action(
        "write-ssh-key",
        "writefile",
        {**disk, "DEST_PATH": "/root/.ssh/authorized_keys", "CONTENTS": "{{ parameters.sshKey }}", "MODE": "0600"},
    )


def _action(name: str, image: str, environment: dict[str, str], command: list[str] | None = None) -> dict[str, Any]:
    action: dict[str, Any] = {
        "name": name,
        "image": f"quay.io/tinkerbell/actions/{image}:latest",
        "timeout": 600,
        "environment": environment,
        "volumes": ["/dev:/dev"],
    }
    return action if command is None else {**action, "command": command}
