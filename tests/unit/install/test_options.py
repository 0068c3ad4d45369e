"""Options that make no sense are all told at once, with what is allowed."""

from typing import Any

import msgspec
import pytest

from dragonfly.install.options import BadOptions, ExternalEtcd, Options, checked

EXTERNAL = ExternalEtcd(endpoints=("https://10.0.0.9:2379",), ca_file="/ca", username="dragonfly", password_file="/pw")


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(floating_ip="10.0.0.50", tinkerbell_ip="10.0.0.51", artifacts_ip="10.0.0.52"),
        Options(join="10.0.0.1", token_file="/token"),
        Options(join="server-1.example.com:6443", token_file="/token"),
        Options(join="fd00::1", token_file="/token"),
        Options(join="[fd00::1]:6443", token_file="/token"),
        Options(etcd="external", external=EXTERNAL),
        Options(etcd="external", join="10.0.0.1", token_file="/token"),
        Options(image="registry.example.com:5000/team/dragonfly:0.1.0@sha256:" + "a" * 64, site="fra1"),
    ],
)
def test_what_makes_sense_is_taken(options: Options) -> None:
    assert checked(options) == options


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"floating_ip": "10.0.0.500"}, "--floating-ip: must be an IPv4 address"),
        ({"tinkerbell_ip": "127.0.0.1"}, "--tinkerbell-ip: must be an IPv4 address"),
        ({"floating_ip": "10.0.0.5", "tinkerbell_ip": "10.0.0.5"}, "must be different addresses"),
        ({"join": "10.0.0.1"}, "--token-file: is needed with --join"),
        ({"token_file": "/t"}, "--token-file: goes with --join alone"),
        ({"join": "https://10.0.0.1/x", "token_file": "/t"}, "--join: must be a server's address"),
        ({"join": "fd00::1:port", "token_file": "/t"}, "--join: must be a server's address"),
        ({"join": "10.0.0.1:port", "token_file": "/t"}, "--join: must be a server's address"),
        ({"etcd": "external"}, "--etcd-endpoints: is needed"),
        ({"external": EXTERNAL}, "go with --etcd external alone"),
        (
            {"etcd": "external", "external": msgspec.structs.replace(EXTERNAL, endpoints=("http://10.0.0.9:2379",))},
            "must be https://",
        ),
        *(
            (
                {"etcd": "external", "external": msgspec.structs.replace(EXTERNAL, endpoints=(endpoint,))},
                f"--etcd-endpoints: must be https:// with host and port, as https://10.0.0.1:2379, not {endpoint!r}",
            )
            for endpoint in ("https://10.0.0.9", "https://:2379", "https://10.0.0.9:99999", "https://10.0.0.9:x")
        ),
        (
            {"etcd": "external", "external": msgspec.structs.replace(EXTERNAL, username="")},
            "--etcd-username: is needed",
        ),
        ({"k3s_version": "1.36"}, "--k3s-version: must be a version"),
        ({"image": "Not An Image"}, "--image: must be an image"),
        ({"site": "Frankfurt am Main"}, "--site: must be a DNS label"),
        ({"artifacts_url": "ftp://x"}, "--artifacts-url: must be a URL"),
        ({"artifacts_url": "http://x", "artifacts_ip": "10.0.0.7"}, "and --artifacts-url that it serves none"),
    ],
)
def test_what_makes_none_is_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOptions) as told:
        checked(Options(**given))

    assert words in str(told.value)


def test_all_of_it_is_told_at_once() -> None:
    with pytest.raises(BadOptions) as told:
        checked(Options(floating_ip="x", site="X", token_file="/t"))

    assert len(told.value.problems) == 3
