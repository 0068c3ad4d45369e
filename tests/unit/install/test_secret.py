"""The Secret that says where etcd is: what it may have in it, and that nothing of it is shown."""

import base64
from pathlib import Path
from typing import Any

import pytest

from dragonfly.install.secret import SecretProblem, access, with_access, with_tokens
from dragonfly.settings import Host, Settings, load

PEM = "-----BEGIN CERTIFICATE-----"


def secret(**data: str) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"kind": "Secret", "data": encoded}


def settings(**env: str) -> Settings:
    return load({}, env, None, Host("h", "abcde"))


def test_a_replica_uses_what_it_says_and_no_disk_has_it() -> None:
    said = secret(
        endpoints="https://10.0.0.1:2379,https://10.0.0.2:2379\n",
        prefix="/fra/",
        ca=f"{PEM} ca",
        cert=f"{PEM} cert",
        key=f"{PEM} key",
        username="dragonfly",
        password="hunter2\n",
    )

    used = with_access(settings(), access(said))

    assert used.etcd_endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
    assert (used.etcd_prefix, used.etcd_username) == ("/fra/", "dragonfly")
    for file, content in ((used.etcd_ca_file, "ca"), (used.etcd_cert_file, "cert"), (used.etcd_key_file, "key")):
        assert [Path(file).read_text() for _ in range(2)] == [f"{PEM} {content}"] * 2
    assert Path(used.etcd_password_file).read_text() == "hunter2\n"
    assert Path(used.etcd_key_file).resolve().as_posix().startswith("/memfd:")


def test_a_prefix_that_was_set_stays() -> None:
    said = access(secret(endpoints="http://a:1", prefix="/fra/"))

    assert with_access(settings(DRAGONFLY_ETCD_PREFIX="/own/"), said).etcd_prefix == "/own/"
    assert with_access(settings(), access(secret(endpoints="http://a:1"))).etcd_prefix == "/dragonfly/"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "endpoints: must be URLs of etcd's client port"),
        ({"endpoints": "10.0.0.1:2379"}, "endpoints: must be URLs"),
        ({"endpoints": "http://a:1", "prefix": "fra"}, "prefix: must begin with /"),
        ({"endpoints": "http://a:1", "ca": "s3cret"}, "ca: must be PEM"),
        ({"endpoints": "http://a:1", "cert": PEM}, "cert: needs key too"),
        ({"endpoints": "http://a:1", "key": PEM}, "key: needs cert too"),
        ({"endpoints": "http://a:1", "username": "u"}, "username: needs password too"),
        ({"endpoints": "http://a:1", "password": "s3cret"}, "password: needs username too"),
        ({"replicaToken": "s3cret", "cert": PEM, "key": PEM}, "endpoints: must be URLs"),
        ({"replicaToken": "s3cret", "service": "dragonfly"}, "service: must be NAMESPACE/NAME:PORT"),
        ({"endpoints": "http://a:1", "tls.crt": "s3cret"}, "tls.crt: is no key of this Secret; there are endpoints"),
    ],
)
def test_what_is_wrong_is_told_with_its_key_and_without_its_value(data: dict[str, str], words: str) -> None:
    with pytest.raises(SecretProblem) as caught:
        access(secret(**data))

    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_what_is_no_base64_is_told() -> None:
    with pytest.raises(SecretProblem, match="endpoints: must be base64"):
        access({"data": {"endpoints": "%"}})
    with pytest.raises(SecretProblem, match="endpoints: must be base64"):
        access({"data": {"endpoints": 7}})


def test_its_secrets_are_in_no_repr() -> None:
    assert "hunter2" not in repr(access(secret(endpoints="http://a:1", username="u", password="hunter2")))


def test_what_leads_to_the_relay_needs_no_endpoints() -> None:
    said = access(secret(replicaToken="a-token-of-16-or-more", service="df/web:http", secretKey="k", prefix="/fra/"))

    used = with_tokens(settings(), said)

    assert (said.endpoints, said.service and said.service.path) == (
        (),
        "/api/v1/namespaces/df/services/http:web:http/proxy/etcd",
    )
    assert Path(used.replica_token_file).read_text() == "a-token-of-16-or-more"
    assert Path(used.secret_key_file).read_text() == "k"
    assert used.etcd_prefix == "/fra/"


def test_files_that_were_set_go_before_the_secret() -> None:
    said = access(secret(replicaToken="a-token-of-16-or-more", secretKey="k"))

    used = with_tokens(settings(DRAGONFLY_REPLICA_TOKEN_FILE="/t", DRAGONFLY_SECRET_KEY_FILE="/k"), said)

    assert (used.replica_token_file, used.secret_key_file) == ("/t", "/k")
