"""Exec plugins of kubeconfigs: a program that prints credentials (client.authentication.k8s.io).

Run as one that nobody sits in front of: no input, a deadline, and gone when its caller is. The kubernetes library's own
(as of 37.0) waits for ever, hides what the plugin said, knows no `provideClusterInfo`, and writes keys to files.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from dragonfly.kube.contexts import Entry, is_word
from dragonfly.kube.errors import PLUGIN, Forbidden

_DEADLINE: Final = 8.0
"""Seconds that a plugin gets: some ask an identity provider far away. Less than a call has, so that this is told."""


class Granted(msgspec.Struct, frozen=True, rename="camel"):
    """What a plugin gives; either may be empty, not both. `expiration_timestamp`: when it must be run again."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _Credential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    status: Granted


async def run(user: Entry, cluster: Entry, deadline: float = _DEADLINE) -> Granted:
    """Run the plugin of `user`, whose `exec` was found to be of the right types.

    Raises:
        Forbidden: it gave no credentials; the message has the plugin's own last words.
    """
    plugin: Mapping[str, Any] = user.body["exec"]
    command = [plugin["command"], *(plugin.get("args") or [])]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=_environment(plugin, cluster),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        hint = plugin.get("installHint")
        raise _refused(
            user, f"cannot run it: {error.strerror}{f'; {hint}' if isinstance(hint, str) else ''}"
        ) from error
    try:
        async with asyncio.timeout(deadline):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise _refused(user, f"did not end within {deadline:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise _refused(user, f"ended with {process.returncode}{_last_words(err)}")
    return _granted(user, plugin["apiVersion"], out)


def _environment(plugin: Mapping[str, Any], cluster: Entry) -> dict[str, str]:
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        known = ("server", "tls-server-name", "certificate-authority-data", "proxy-url")
        spec["cluster"] = {field: cluster.body[field] for field in known if field in cluster.body}
    info = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": spec}
    said = {item["name"]: item["value"] for item in plugin.get("env") or []}
    return {**os.environ, **said, "KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()}


def _granted(user: Entry, version: str, out: bytes) -> Granted:
    try:
        credential = msgspec.json.decode(out, type=_Credential)
    except ValueError as error:  # not only msgspec's: text that is no UTF-8 is a UnicodeDecodeError
        # Not its words: they may quote the token.
        raise _refused(user, "printed no ExecCredential as JSON") from error
    if credential.kind != "ExecCredential" or credential.api_version != version:
        raise _refused(user, f"printed no ExecCredential of {version}, which the kubeconfig asks for")
    granted = credential.status
    if bool(granted.client_certificate_data) != bool(granted.client_key_data):
        raise _refused(user, "printed one of clientCertificateData and clientKeyData, and not the other")
    if not granted.token and not granted.client_certificate_data:
        raise _refused(user, "printed neither a token nor a client certificate")
    if not is_word(granted.token):
        raise _refused(user, "printed a token that is not one word of printable ASCII")
    return granted


def _refused(user: Entry, words: str) -> Forbidden:
    return Forbidden(f"{user.place}.exec: plugin {user.body['exec']['command']} {words}", status=401, reason=PLUGIN)


def _last_words(err: bytes) -> str:
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""
