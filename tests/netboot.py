"""Whether a machine would boot from the network, by what its Hardware tells Tinkerbell's DHCP."""

from typing import Any


def allows_netboot(hardware: dict[str, Any]) -> bool:
    return any(interface.get("netboot", {}).get("allowPXE") for interface in hardware["spec"].get("interfaces", ()))
