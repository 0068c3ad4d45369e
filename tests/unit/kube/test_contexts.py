"""Broken kubeconfigs: each mistake is told with the file, the field and what is allowed, and never with a secret."""

import base64
import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.kube.contexts import Chosen, chosen, contents, merged
from dragonfly.kube.errors import Invalid

V1 = "client.authentication.k8s.io/v1"
NO_PEM = base64.b64encode(b"no certificate").decode()


def document(user: Any = None, cluster: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"} | (cluster or {})}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    } | more


def read(path: Path, content: Any, context: str = "") -> Chosen:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return chosen(merged([path]), context)


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        ("- a\n", "", "is not a kubeconfig"),
        ("a: [", "", "is no valid YAML: line 1, column 5"),
        ("a: 2026-13-45", "", "is no valid YAML"),
        (document(clusters={"a": 1}), "clusters", "must be a list"),
        (document(users=["u"]), "users[0]", "must have a name and a user"),
        (document(users=[{"name": "u", "user": "admin"}]), "users[0].user", "must have fields"),
        (document(**{"current-context": ["x"]}), "current-context", "must be text"),
        (document(**{"current-context": ""}), "current-context", "is empty; there is x"),
        (document(contexts=[{"name": "x", "context": {"cluster": 7}}]), "contexts[x].context.cluster", "must be text"),
        (document(cluster={"server": "10.0.0.1:6443"}), "clusters[c].cluster.server", "such as https://10.0.0.1:6443"),
        (document(cluster={"server": "https://h:port"}), "clusters[c].cluster.server", "must be the API server's URL"),
        (
            document(cluster={"server": "https://u:s3cret@h:1"}),
            "clusters[c].cluster.server",
            "must be the API server's",
        ),
        (document(cluster={"server": None}), "clusters[c].cluster.server", "must be the API server's URL"),
        (document(cluster={"certificate-authority-data": "!"}), "certificate-authority-data", "must be PEM"),
        (document(cluster={"certificate-authority-data": NO_PEM}), "certificate-authority-data", "must be PEM"),
        (document(cluster={"proxy-url": "socks5://p:1080"}), "clusters[c].cluster.proxy-url", "SOCKS is not supported"),
        (document(cluster={"insecure-skip-tls-verify": True}), "insecure-skip-tls-verify", "is refused: give"),
        (document(cluster={"insecure-skip-tls-verify": "no"}), "insecure-skip-tls-verify", "is refused: give"),
        (document(cluster={"tls-server-name": ["a"]}), "clusters[c].cluster.tls-server-name", "must be the name"),
        (document({"token": "two words"}), "users[u].user.token", "must be one word of printable ASCII"),
        (document({"tokenFile": 7}), "users[u].user.tokenFile", "must be the path of a file"),
        (document({"client-certificate": "a.pem"}), "users[u].user.client-certificate", "needs client-key or"),
        (document({"client-key": "a.pem"}), "users[u].user.client-key", "needs client-certificate or"),
        (document({"exec": {"command": "x"}}), "users[u].user.exec", f"apiVersion ({V1})"),
        (document({"exec": {"command": "x", "apiVersion": V1, "args": "a"}}), "users[u].user.exec", "args (a list"),
        (document({"exec": {"command": "x", "apiVersion": V1, "env": [{}]}}), "users[u].user.exec", "env (a list"),
        (document({"auth-provider": {"name": "oidc"}}), "users[u].user.auth-provider", "use an exec plugin"),
        (document({"as": "admin"}), "users[u].user.as", "impersonation is not supported"),
    ],
)
def test_a_mistake_is_told_with_its_file_its_field_and_what_is_allowed(
    tmp_path: Path, content: Any, place: str, words: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read(tmp_path / "config", content)

    assert caught.value.message.startswith(f"{tmp_path / 'config'}: ")
    assert f"{place}: " in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (document(contexts=[]), "the kubeconfig has no context 'x'; there is no context at all"),
        (document(clusters=[]), "the kubeconfig has no cluster 'c'; there is no cluster at all"),
        (document(users=[{"name": "v"}]), "the kubeconfig has no user 'u'; there is v"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(Invalid, match=re.escape(words)):
        read(tmp_path / "config", content)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    found = read(tmp_path / "config", document({"client-key": "key", "client-certificate": "crt"}))

    with pytest.raises(Invalid, match=r"users\[u\].user.client-key: cannot read .*/key: No such file"):
        contents(found.user, "client-key")
    with pytest.raises(Invalid, match=r"cannot be read: Is a directory"):
        merged([tmp_path])
    (tmp_path / "latin1").write_bytes(b"a: \xe4\n")
    with pytest.raises(Invalid, match="latin1: is no text in UTF-8"):
        merged([tmp_path / "latin1"])


def test_a_mistake_in_what_is_not_used_is_nobodys(tmp_path: Path) -> None:
    unused = {"name": "other", "cluster": {"server": 7}}
    content = document()
    content["clusters"].append(unused)

    assert read(tmp_path / "config", content).cluster.name == "c"


def test_no_message_quotes_a_secret(tmp_path: Path) -> None:
    for content in ('token: "s3cret\n', document({"token": "s3cret two"}), document({"client-key-data": "s3cret"})):
        with pytest.raises(Invalid) as caught:
            read(tmp_path / "config", content)
        assert "s3cret" not in caught.value.message


def test_an_empty_file_is_an_empty_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")

    assert merged([tmp_path / "empty"])["clusters"] == []


_FIELDS = st.sampled_from(
    "name cluster user context clusters users contexts current-context server token exec command apiVersion args env "
    "as proxy-url client-key client-certificate-data".split()
)
_LEAF: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["c", "u", "x", V1])
)
_NODE = _LEAF | st.lists(_LEAF, max_size=3) | st.dictionaries(_FIELDS, _LEAF, max_size=4)
_ANYTHING = _NODE | st.lists(_NODE, max_size=3) | st.dictionaries(_FIELDS, _NODE, max_size=4)


@given(_ANYTHING, _ANYTHING, _ANYTHING)
def test_whatever_is_in_the_file_the_answer_is_a_kubeconfig_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, user: Any, cluster: Any, more: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything"
    content = document() | (more if isinstance(more, dict) else {})
    content |= {"users": [{"name": "u", "user": user}], "clusters": [{"name": "c", "cluster": cluster}]}
    path.write_text(yaml.safe_dump(content))

    with contextlib.suppress(Invalid):
        assert chosen(merged([path])).cluster.body["server"]
