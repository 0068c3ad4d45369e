import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dragonfly.kube.credentials import REREAD, InCluster, Kubeconfig, log_in
from dragonfly.kube.errors import Invalid

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVER = "https://10.0.0.1:6443"


def kubeconfig(
    path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None, name: str = "one", **more: Any
) -> Kubeconfig:
    document = {
        "clusters": [{"name": name, "cluster": {"server": SERVER} | (cluster or {})}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document | more))
    return Kubeconfig((path,))


def certificate(name: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW.replace(year=2036))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM), private


async def test_a_token_file_wins_over_a_token_and_loses_its_newline(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "token").write_text("fresh\n")
    source = kubeconfig(tmp_path / "sub" / "config", {"token": "stale", "tokenFile": "token"})

    login = await log_in(source, NOW)

    assert login.authorization == "Bearer fresh"
    assert login.server == SERVER
    assert login.valid_for == REREAD


async def test_a_rotated_token_changes_no_connection_and_a_rotated_certificate_does(tmp_path: Path) -> None:
    pem, key = certificate("a")
    (tmp_path / "crt").write_bytes(pem)
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "token").write_text("1")
    source = kubeconfig(tmp_path / "config", {"tokenFile": "token", "client-certificate": "crt", "client-key": "key"})
    first = await log_in(source, NOW)
    (tmp_path / "token").write_text("2")
    second = await log_in(source, NOW)
    pem, key = certificate("b")
    (tmp_path / "crt").write_bytes(pem)
    (tmp_path / "key").write_bytes(key)
    third = await log_in(source, NOW)

    assert (first.authorization, second.authorization) == ("Bearer 1", "Bearer 2")
    assert first.identity == second.identity != third.identity


async def test_keys_in_the_kubeconfig_are_never_written_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, key = certificate("a")
    empty = tmp_path / "temporary"
    empty.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(empty))
    source = kubeconfig(
        tmp_path / "config",
        {"client-certificate-data": base64.b64encode(pem).decode(), "client-key-data": base64.b64encode(key).decode()},
        {"certificate-authority-data": base64.b64encode(pem).decode()},
    )

    login = await log_in(source, NOW)

    assert list(empty.iterdir()) == []
    assert len(login.tls.get_ca_certs()) == 1
    assert login.tls.check_hostname


async def test_a_key_that_does_not_fit_its_certificate_is_told(tmp_path: Path) -> None:
    pem, _ = certificate("a")
    _, key = certificate("b")
    data = {
        "client-certificate-data": base64.b64encode(pem).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }

    with pytest.raises(Invalid, match="KEY_VALUES_MISMATCH"):
        await log_in(kubeconfig(tmp_path / "config", data), NOW)


async def test_the_first_file_wins_and_each_path_is_relative_to_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "token").write_text("from-b")
    kubeconfig(tmp_path / "a" / "config", {"token": "from-a"})
    kubeconfig(tmp_path / "b" / "config", {"tokenFile": "token"}, name="two")
    both = f"{tmp_path}/missing:{tmp_path}/a/config:{tmp_path}/b/config"

    assert (await log_in(Kubeconfig.from_variable(both), NOW)).authorization == "Bearer from-a"
    assert (await log_in(Kubeconfig.from_variable(both, context="two"), NOW)).authorization == "Bearer from-b"


async def test_a_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    source = kubeconfig(tmp_path / "config", {})

    with pytest.raises(Invalid, match="no context 'other'; there is one"):
        await log_in(source._replace(context="other"), NOW)
    with pytest.raises(Invalid, match="no kubeconfig at"):
        await log_in(Kubeconfig((tmp_path / "none",)), NOW)


async def test_a_user_without_credentials_is_nobody(tmp_path: Path) -> None:
    assert not (await log_in(kubeconfig(tmp_path / "config", {}), NOW)).authorization


async def test_another_proxy_or_name_of_the_server_is_another_connection(tmp_path: Path) -> None:
    source = kubeconfig(tmp_path / "config", {"username": "u", "password": "p"})
    plain = await log_in(source, NOW)
    kubeconfig(tmp_path / "config", {}, {"proxy-url": "http://u:p@proxy:3128"})
    proxied = await log_in(source, NOW)
    kubeconfig(tmp_path / "config", {}, {"tls-server-name": "kubernetes.default"})
    named = await log_in(source, NOW)

    assert plain.authorization == f"Basic {base64.b64encode(b'u:p').decode()}"
    assert (proxied.proxy, named.server_hostname) == ("http://u:p@proxy:3128", "kubernetes.default")
    assert len({plain.identity, proxied.identity, named.identity}) == 3


async def test_a_certificate_that_has_expired_is_told_before_it_is_shown(tmp_path: Path) -> None:
    pem, key = certificate("a")
    (tmp_path / "crt").write_bytes(pem)
    (tmp_path / "key").write_bytes(key)
    source = kubeconfig(tmp_path / "config", {"client-certificate": "crt", "client-key": "key"})

    assert (await log_in(source, NOW)).server == SERVER
    with pytest.raises(Invalid, match=r"users\[one\].user.client-certificate: expired at 2036-01-01T00:00:00Z"):
        await log_in(source, NOW.replace(year=2037))


async def test_a_pod_without_a_service_account_is_told() -> None:
    with pytest.raises(Invalid, match="the pod's service account"):
        await log_in(InCluster(), NOW)
