"""Which kubeconfigs are taken from others, and how one in files becomes one that can be sent."""

import base64
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragonfly.kube.credentials import Inline, log_in
from dragonfly.kube.kubeconfig import flattened, handed
from dragonfly.model.values import Invalid
from dragonfly.sandbox.pki import Authority

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "a-ca", dt.datetime.now(dt.UTC))


def kubeconfig(*, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "current-context": "fra",
        "contexts": [
            {"name": "fra", "context": {"cluster": "c", "user": "u"}},
            {"name": "other", "context": {"cluster": "c", "user": "admin"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"} | (cluster or {})}],
        "users": [
            {"name": "u", "user": {"token": "a-token"} if user is None else user},
            {"name": "admin", "user": {"token": "the-admins-token", "exec": {"command": "aws"}}},
        ],
    }


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_one_context_is_kept_and_no_other_credentials(write: Any) -> None:
    kept = handed(write(kubeconfig()), NOW)

    assert (kept.context, kept.server) == ("fra", "https://10.0.0.1:6443")
    assert "a-token" in kept.text
    assert "the-admins-token" not in kept.text
    assert "a-token" not in repr(kept)


@pytest.mark.parametrize(
    ("cluster", "user", "told"),
    [
        ({"insecure-skip-tls-verify": True}, None, "insecure-skip-tls-verify must not be set"),
        ({"certificate-authority": "/etc/ca.pem"}, None, "certificate-authority is a file"),
        ({"certificate-authority-data": "no base64!"}, None, "certificate-authority-data must be base64"),
        ({"server": "http://10.0.0.1:6443"}, None, "must begin with https://"),
        ({"server": "https://root:secret@10.0.0.1"}, None, "must have no user and password"),
        ({"server": None}, None, "must be a URL"),
        ({}, {"exec": {"command": "sh"}}, "every replica would run the program"),
        ({}, {"auth-provider": {"name": "oidc"}}, "auth-provider is not taken"),
        ({}, {"tokenFile": "/var/run/secrets/token"}, "tokenFile is a file"),
        ({}, {"client-key": "/root/key.pem"}, "client-key is a file"),
        ({}, {"token": "a-token", "as": "system:admin"}, "as is not taken"),
        ({}, {"token": ["a-token"]}, "token must be a text"),
    ],
)
def test_what_is_refused_is_named(cluster: dict[str, Any], user: dict[str, Any] | None, told: str) -> None:
    with pytest.raises(Invalid) as refused:
        handed(json.dumps(kubeconfig(cluster=cluster, user=user)), NOW)

    assert told in str(refused.value)
    assert "a-token" not in str(refused.value)
    assert "secret@" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "neither YAML nor JSON"),
        ("- a\n- b", "is no kubeconfig"),
        ("{}", "has no current-context"),
        ("a" * 70_000, "at most 64 KiB"),
        ("[" * 60_000, "nested too deep"),
        ("- " * 30_000, "nested too deep"),
        (json.dumps(kubeconfig() | {"clusters": "none"}), "cluster 'c' that the kubeconfig does not have"),
    ],
)
def test_what_is_no_kubeconfig_is_told(text: str, told: str) -> None:
    with pytest.raises(Invalid, match=told):
        handed(text, NOW)


def test_a_context_that_is_not_there_is_told() -> None:
    with pytest.raises(Invalid, match=r"spec\.context: names a context 'muc'"):
        handed(json.dumps(kubeconfig()), NOW, "muc")


async def test_files_become_inline_and_work(tmp_path: Path, authority: Authority) -> None:
    client = authority.client("dragonfly", ["dragonfly"])
    (tmp_path / "token").write_text("from-a-file\n")
    files = {"client-certificate": str(client.certificate), "client-key": str(client.key), "tokenFile": "token"}
    document = kubeconfig(cluster={"certificate-authority": str(authority.ca)}, user=files)
    (tmp_path / "config").write_text(yaml.safe_dump(document))

    text = flattened([tmp_path / "config"], NOW)

    assert base64.b64encode(authority.ca.read_bytes()).decode() in text
    login = await log_in(Inline(handed(text, NOW).text), NOW)
    assert (login.server, login.authorization) == ("https://10.0.0.1:6443", "Bearer from-a-file")
    assert "from-a-file" not in repr(Inline(text))


@pytest.mark.parametrize("after", [dt.timedelta(days=365), dt.timedelta(days=999)])
def test_a_client_certificate_that_has_expired_is_told_with_its_date(tmp_path: Path, after: dt.timedelta) -> None:
    client = Authority(tmp_path, "a-ca", NOW).client("dragonfly")
    files = {"client-certificate": str(client.certificate), "client-key": str(client.key)}
    (tmp_path / "config").write_text(yaml.safe_dump(kubeconfig(user=files)))
    told = r"spec\.kubeconfig: cannot be used: kubeconfig: users\[fra\].user.client-certificate: expired at 20\d\d-"

    text = flattened([tmp_path / "config"], NOW)
    assert handed(text, NOW).text == text
    with pytest.raises(Invalid, match=told):
        handed(text, NOW + after)
    with pytest.raises(Invalid, match=told):
        flattened([tmp_path / "config"], NOW + after)


def test_a_client_certificate_that_its_key_does_not_belong_to_is_told(tmp_path: Path, authority: Authority) -> None:
    client, other = authority.client("dragonfly"), authority.client("other")
    pair = {"client-certificate": client.certificate, "client-key": other.key}
    user = {f"{field}-data": base64.b64encode(path.read_bytes()).decode() for field, path in pair.items()}

    with pytest.raises(Invalid, match="with client-key is no certificate with its key"):
        handed(json.dumps(kubeconfig(user=user)), NOW)


def test_a_plugin_cannot_be_sent(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(yaml.safe_dump(kubeconfig()))

    with pytest.raises(Invalid, match="kubectl create token"):
        flattened([tmp_path / "config"], NOW, "other")
