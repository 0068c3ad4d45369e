"""Dragonfly's admission policy as the models of the API server carry it out, and the wait until a real one does."""

import asyncio
from typing import Final

from dragonfly.kube.errors import Forbidden
from dragonfly.kube.policy import FENCED, REPLACES, policy_name
from dragonfly.kube.port import Kube
from dragonfly.kube.resources import HARDWARE, Object, Ref
from dragonfly.kube.tinkerbell import EPOCH, MANAGED_BY, MANAGER, is_managed

_DEADLINE: Final = 60.0


def refusal(ref: Ref, before: Object, after: Object) -> Forbidden | None:
    """Return what the API server answers to a change of a whole object, if the policy forbids it."""
    if ref.resource not in FENCED or not (is_managed(before) or is_managed(after)):
        return None
    stored, given = _annotation(before, EPOCH), _annotation(after, EPOCH)
    if not (_is_number(stored) and _is_number(given)) or int(given) >= int(stored):
        return None
    replaced = _annotation(after, REPLACES)
    if replaced == stored and replaced != _annotation(before, REPLACES):
        return None
    name = policy_name(ref.namespace)
    message = (
        f"{ref} is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: "
        f"epoch {given} is over: epoch {stored} has written this object"
    )
    return Forbidden(message, status=403, reason="Forbidden")


async def until_in_force(kube: Kube, namespace: str) -> None:
    """Return once the API server refuses a lower epoch: it learns of its policies by a watch of its own, a bit late."""
    ref = Ref(HARDWARE, namespace, "policy-probe")
    probe: Object = {
        "apiVersion": HARDWARE.api_version,
        "kind": HARDWARE.kind,
        "metadata": {"name": ref.name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}},
    }
    try:
        async with asyncio.timeout(_DEADLINE):
            while True:
                for epoch in ("2", "1"):
                    probe["metadata"]["annotations"] = {EPOCH: epoch}
                    await kube.apply(probe, force=True)
                await asyncio.sleep(0.1)
    except Forbidden:
        await kube.delete(ref)


def _annotation(obj: Object, name: str) -> str:
    return str(obj["metadata"].get("annotations", {}).get(name, ""))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18
