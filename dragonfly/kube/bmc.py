"""The BMC's side of a machine: Rufio's Machine and the Secret with its credentials. Pure."""

from base64 import b64encode
from hashlib import sha256
from typing import Final

from dragonfly.kube.resources import BMC_MACHINE, SECRET, Object
from dragonfly.kube.tinkerbell import EPOCH, MACHINE, MANAGED_BY, MANAGER, SPEC, fingerprint
from dragonfly.model.machine import Bmc, Machine

CREDENTIALS: Final = "dragonfly.io/credentials"

# bmclib's names; without a preference Rufio opens all of them, and a dead ipmitool delays every machine.
_PROVIDERS: Final = {"redfish": "gofish", "ipmi": "ipmitool"}


def secret_name(machine: str) -> str:
    return f"{machine}-bmc"


def secret(machine: Machine, namespace: str, password: str, *, epoch: int) -> Object:
    """Return the Secret that Rufio logs in with; its `data` is as the API shows it, so that both can be compared."""
    assert machine.spec.bmc is not None
    login = {"username": machine.spec.bmc.username, "password": password}
    return {
        "apiVersion": SECRET.api_version,
        "kind": SECRET.kind,
        "metadata": _metadata(machine, secret_name(machine.name), namespace, epoch),
        "type": "Opaque",
        "data": {name: b64encode(value.encode()).decode() for name, value in login.items()},
    }


def bmc_machine(machine: Machine, namespace: str, *, epoch: int) -> Object:
    """Return Rufio's Machine."""
    bmc = machine.spec.bmc
    assert bmc is not None
    # `insecureTLS` is required by the type though bmclib 2.3 never verifies.
    connection: Object = {"host": bmc.host, "insecureTLS": bmc.insecure_tls, "providerOptions": _options(bmc)}
    if bmc.protocol != "rpc":
        connection["authSecretRef"] = {"name": secret_name(machine.name), "namespace": namespace}
    # Tells which credentials the Secret was written from, so that Secrets need not be read to be compared.
    credentials = sha256(f"{bmc.username}\n{machine.sealed_password}".encode()).hexdigest()[:16]
    spec = {"connection": connection}
    annotations = {EPOCH: str(epoch), CREDENTIALS: credentials, SPEC: fingerprint(spec)}
    return {
        "apiVersion": BMC_MACHINE.api_version,
        "kind": BMC_MACHINE.kind,
        "metadata": _metadata(machine, machine.name, namespace, epoch) | {"annotations": annotations},
        "spec": spec,
    }


def _options(bmc: Bmc) -> Object:
    if bmc.protocol == "rpc":
        return {"rpc": {"consumerURL": bmc.options.get("consumerURL", bmc.host)}}
    chosen: Object = {"preferredOrder": [_PROVIDERS[bmc.protocol]]}
    if bmc.protocol == "redfish":
        redfish: Object = {"useBasicAuth": bmc.options.get("useBasicAuth", "true") == "true"}
        if bmc.port is not None:
            redfish["port"] = bmc.port
        if "systemName" in bmc.options:
            redfish["systemName"] = bmc.options["systemName"]
        chosen["redfish"] = redfish
    elif bmc.port is not None:
        chosen["ipmitool"] = {"port": bmc.port}
    return chosen


def _metadata(machine: Machine, name: str, namespace: str, epoch: int) -> Object:
    return {
        "name": name,
        "namespace": namespace,
        "labels": {MANAGED_BY: MANAGER, MACHINE: machine.name},
        "annotations": {EPOCH: str(epoch)},
    }
