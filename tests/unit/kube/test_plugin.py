"""Exec plugins: what they print is taken, what goes wrong with them is told in their own words."""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.kube import plugin
from dragonfly.kube.contexts import chosen, merged
from dragonfly.kube.credentials import Kubeconfig, log_in
from dragonfly.kube.errors import Forbidden

NOW = datetime(2026, 1, 1, tzinfo=UTC)
V1 = "client.authentication.k8s.io/v1"


def credential(status: dict[str, Any], version: str = V1) -> str:
    return json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})


def with_plugin(directory: Path, script: str, **more: Any) -> Kubeconfig:
    program = directory / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}],
        "users": [{"name": "u", "user": {"exec": {"apiVersion": V1, "command": "./plugin", **more}}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (directory / "config").write_text(yaml.safe_dump(document))
    return Kubeconfig((directory / "config",))


async def test_a_plugin_beside_the_kubeconfig_gives_a_token_until_it_expires(tmp_path: Path) -> None:
    said = credential({"token": "from-plugin ", "expirationTimestamp": "2026-01-01T00:10:00Z"})

    login = await log_in(with_plugin(tmp_path, f"echo '{said}'"), NOW)

    assert login.authorization == "Bearer from-plugin"
    assert 500 < login.valid_for < 600


async def test_a_plugin_is_told_its_variables_its_arguments_and_the_cluster(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"echo \"$1 $WHO $KUBERNETES_EXEC_INFO\" > {out}; echo '{credential({'token': 't'})}'"
    more = {"args": ["first"], "env": [{"name": "WHO", "value": "me"}], "provideClusterInfo": True}

    await log_in(with_plugin(tmp_path, script, **more), NOW)

    argument, who, info = out.read_text().split(" ", 2)
    assert (argument, who) == ("first", "me")
    assert json.loads(info)["spec"] == {"interactive": False, "cluster": {"server": "https://10.0.0.1:6443"}}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Trying...; echo 'sign in first' >&2; exit 3", "ended with 3: sign in first"),
        ("exit 3", "ended with 3"),
        ("echo token=s3cret", "printed no ExecCredential as JSON"),
        (f"echo '{credential({'token': 's3cret'}, 'v2')}'", f"printed no ExecCredential of {V1}"),
        (f"echo '{credential({})}'", "printed neither a token nor a client certificate"),
        (f"echo '{credential({'clientKeyData': 's3cret'})}'", "and not the other"),
        (f"echo '{credential({'token': 7})}'", "printed no ExecCredential as JSON"),
        (f"echo '{credential({'token': 's3cret two'})}'", "printed a token that is not one word"),
    ],
)
async def test_a_plugin_that_fails_is_told_and_is_no_anonymous_call(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await log_in(with_plugin(tmp_path, script), NOW)

    place = f"{tmp_path / 'config'}: users[u].user.exec: plugin {tmp_path / 'plugin'} "
    assert caught.value.message.startswith(place)
    assert words in caught.value.message
    assert "s3cret" not in caught.value.message


async def test_a_plugin_that_is_not_there_is_told_with_where_to_get_it(tmp_path: Path) -> None:
    source = with_plugin(tmp_path, "", installHint="Get it from your cloud.")
    (tmp_path / "plugin").unlink()

    with pytest.raises(Forbidden, match=re.escape("cannot run it: No such file or directory; Get it from your cloud.")):
        await log_in(source, NOW)


async def test_a_plugin_that_hangs_is_ended_and_told(tmp_path: Path) -> None:
    source = with_plugin(tmp_path, f"echo $$ > {tmp_path / 'pid'}; exec sleep 600")
    found = chosen(merged(source.paths))

    with pytest.raises(Forbidden, match="did not end within 2 s"):
        await plugin.run(found.user, found.cluster, deadline=2)

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
