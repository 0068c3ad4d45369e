"""Which proxy is taken: the cases of golang.org/x/net/http/httpproxy (v0.56), by which kubectl goes, and some more.

Left out are those of CGI, for a replica is no CGI program.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from dragonfly.kube.connection import Connection
from dragonfly.kube.credentials import Kubeconfig, log_in
from dragonfly.kube.errors import Invalid
from dragonfly.kube.proxy import from_environment

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROXY = "http://proxy"


def source(directory: Path, **cluster: str) -> Kubeconfig:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "https://10.1.2.3:6443"} | cluster}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "current-context": "c",
    }
    path = directory / "config"
    path.write_text(yaml.safe_dump(document))
    return Kubeconfig((path,))


@pytest.mark.parametrize(
    ("environment", "server", "proxy"),
    [
        ({"HTTP_PROXY": "http://127.0.0.1:8080"}, "http://example.com", "http://127.0.0.1:8080"),
        ({"HTTP_PROXY": "127.0.0.1:8080"}, "http://example.com", "http://127.0.0.1:8080"),
        ({"HTTP_PROXY": "cache.example.com:1234"}, "http://example.com", "http://cache.example.com:1234"),
        ({"HTTP_PROXY": "cache.example.com"}, "http://example.com", "http://cache.example.com"),
        ({"HTTP_PROXY": "localhost"}, "http://example.com", "http://localhost"),
        ({"HTTP_PROXY": "user:pass@proxy:3128"}, "http://example.com", "http://user:pass@proxy:3128"),
        ({"HTTP_PROXY": "https://127.0.0.1:8080"}, "http://example.com", "https://127.0.0.1:8080"),
        ({"HTTP_PROXY": "http://one", "HTTPS_PROXY": "http://other"}, "http://insecure.tld/", "http://one"),
        ({"HTTP_PROXY": "http://one", "HTTPS_PROXY": "http://other"}, "https://secure.tld/", "http://other"),
        ({"HTTP_PROXY": "http://one", "HTTPS_PROXY": "https://other"}, "https://secure.tld/", "https://other"),
        ({"HTTP_PROXY": "http://one"}, "https://secure.tld/", ""),
        ({"HTTP_PROXY": "http://one"}, "ftp://insecure.tld/", ""),
        ({}, "http://example.com", ""),
        ({"NO_PROXY": "example.com", "HTTP_PROXY": PROXY}, "http://example.com/", ""),
        ({"NO_PROXY": ".example.com", "HTTP_PROXY": PROXY}, "http://example.com/", PROXY),
        ({"NO_PROXY": "ample.com", "HTTP_PROXY": PROXY}, "http://example.com/", PROXY),
        ({"NO_PROXY": "example.com", "HTTP_PROXY": PROXY}, "http://foo.example.com/", ""),
        ({"NO_PROXY": ".foo.com", "HTTP_PROXY": PROXY}, "http://example.com/", PROXY),
        ({"NO_PROXY": ".示例.com", "HTTP_PROXY": PROXY}, "http://www.示例.com", ""),
        ({"NO_PROXY": "xn--fsq092h.com", "HTTP_PROXY": PROXY}, "http://www.示例.com", ""),
        ({"NO_PROXY": "示例.com", "HTTP_PROXY": PROXY}, "http://www.xn--fsq092h.com", ""),
        ({"NO_PROXY": "example.com", "HTTP_PROXY": PROXY}, "http://[1000::%25.example.com]:123", PROXY),
        # Which variable counts.
        ({"http_proxy": PROXY, "no_proxy": "b.com"}, "http://a.com", PROXY),
        ({"http_proxy": PROXY, "no_proxy": "b.com"}, "http://b.com", ""),
        ({"HTTP_PROXY": PROXY, "http_proxy": "http://other"}, "http://a.com", PROXY),
        ({"HTTP_PROXY": "", "http_proxy": PROXY}, "http://a.com", PROXY),
        # An entry that is none is passed over.
        ({"NO_PROXY": ":1", "HTTP_PROXY": PROXY}, "http://example.com:80", PROXY),
        ({"NO_PROXY": ", ,10.0.0.0/255.0.0.0,/8,", "HTTP_PROXY": PROXY}, "http://10.0.0.2", PROXY),
        # Ports that are not said are their scheme's.
        ({"NO_PROXY": "example.com:443", "HTTPS_PROXY": PROXY}, "https://example.com", ""),
        ({"NO_PROXY": "example.com:443", "HTTPS_PROXY": PROXY}, "https://example.com:6443", PROXY),
        # What the same API server may be called, with kubectl's usual NO_PROXY.
        ({"NO_PROXY": "10.0.0.0/8,.svc", "HTTPS_PROXY": PROXY}, "https://10.1.2.3:6443", ""),
        ({"NO_PROXY": "10.0.0.0/8,.svc", "HTTPS_PROXY": PROXY}, "https://[::ffff:10.1.2.3]:6443", ""),
        ({"NO_PROXY": "10.0.0.0/8,.svc", "HTTPS_PROXY": PROXY}, "https://kubernetes.default.svc", ""),
        ({"NO_PROXY": "10.0.0.0/8,.svc", "HTTPS_PROXY": PROXY}, "https://11.1.2.3:6443", PROXY),
    ],
)
def test_the_proxy_is_the_one_that_kubectl_takes(environment: dict[str, str], server: str, proxy: str) -> None:
    assert from_environment(server, environment) == proxy


@pytest.mark.parametrize(
    "value", ["socks5://user:hunter2@proxy:1080", "foo://proxy", "http://", "proxy:port", "http://proxy:port"]
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_what_is_no_http_proxy_is_refused_by_the_variables_name_and_without_its_password(
    variable: str, value: str
) -> None:
    server, environment = "https://10.1.2.3:6443", {variable: value}

    with pytest.raises(Invalid) as refused:
        from_environment(server, environment)

    assert str(refused.value).startswith(f"{variable} in the environment: must be an HTTP proxy, such as ")
    assert "add 10.1.2.3 to NO_PROXY" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert not from_environment(server, environment | {"NO_PROXY": "10.1.2.3"}), "the remedy is one"


async def test_a_connection_says_what_is_wrong_with_the_proxy_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call does, not the first one alone."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    async with Connection(source(tmp_path)) as kube:
        for _ in range(2):
            with pytest.raises(Invalid, match="HTTPS_PROXY in the environment: must be an HTTP proxy"):
                await kube.version()


HOSTS = {
    # Never
    "localhost": False,
    "127.0.0.1": False,
    "127.0.0.2": False,
    "[::1]": False,
    "[::ffff:127.0.0.1]": False,
    "[::2]": True,  # not a loopback address
    "192.168.1.1": False,  # exact IPv4
    "192.168.1.2": True,  # another port
    "192.168.1.3": False,  # exact IPv4:port
    "192.168.1.4": True,
    "10.0.0.2": False,  # IPv4/CIDR
    "[2001:db8::52:0:1]": False,  # exact IPv6
    "[2001:db8::52:0:2]": True,
    "[2001:db8::52:0:3]": False,  # exact [IPv6]:port
    "[2002:db8:a::123]": False,  # IPv6/CIDR
    "[fe80::424b:c8be:1643:a1b6]": True,
    "barbaz.net": True,  # .barbaz.net is below it
    "www.barbaz.net": False,
    "foobar.com": False,
    "www.foobar.com": False,
    "foofoobar.com": True,  # not a part of a label
    "baz.com": True,
    "localhost.net": True,
    "local.localhost": True,
    "barbarbaz.net": True,
    "wildcard.io": True,  # *.wildcard.io is below it
    "nested.wildcard.io": False,
    "awildcard.io": True,
}
NO_PROXY = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30, "
    "2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
)


@pytest.mark.parametrize(("host", "proxied"), HOSTS.items())
def test_what_is_reached_without_a_proxy(host: str, proxied: bool) -> None:
    server = f"https://{host}:80"

    assert from_environment(server, {"HTTPS_PROXY": PROXY, "NO_PROXY": NO_PROXY}) == PROXY * proxied
    assert not from_environment(server, {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.example, *"})


async def test_a_kubeconfig_without_a_proxy_is_reached_as_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "192.168.0.0/16")
    assert (await log_in(source(tmp_path), NOW)).proxy == "http://proxy:3128"

    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    assert (await log_in(source(tmp_path), NOW)).proxy == ""
    assert (await log_in(source(tmp_path, **{"proxy-url": "http://its.own:3128"}), NOW)).proxy == "http://its.own:3128"
