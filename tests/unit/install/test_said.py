"""What is said goes on top of what is so, and what is not said stays as it is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dragonfly.install.options import BadOptions, ExternalEtcd, Options, checked
from dragonfly.install.recorded import Record
from dragonfly.install.said import Said, brings_image, on_top, said_from, taken_up

FOUNDER = Options(image="x/y:1", floating_ip="10.0.0.50", k3s_version="v1.2.3+k3s1", dhcp=False)
JOINED = Options(etcd="", join="10.0.0.1", token_file="/token", image_archive="/image.tar")
EXTERNAL = ExternalEtcd(endpoints=("https://a:2379",), ca_file="/ca", username="dragonfly", password_file="/pw")


def test_of_what_was_given_only_what_was_said_counts_with_paths_as_from_anywhere() -> None:
    given = {"site": None, "dhcp": False, "image": "", "airgap": "", "image_archive": "a.tar", "token_file": "/token"}

    said = said_from(given | {"etcd_endpoints": "https://a:2379, https://b:2379,"}, Path("/here"))

    assert said == {
        "dhcp": False,
        "image": "",
        "airgap": "",
        "image_archive": "/here/a.tar",
        "token_file": "/token",
        "etcd_endpoints": ("https://a:2379", "https://b:2379"),
    }


def test_what_is_not_said_stays() -> None:
    assert on_top(FOUNDER, {}) == FOUNDER
    assert on_top(FOUNDER, {"site": "fra1"}) == Options(
        image="x/y:1", floating_ip="10.0.0.50", k3s_version="v1.2.3+k3s1", dhcp=False, site="fra1"
    )
    assert on_top(JOINED, {"k3s_version": "v1.2.3+k3s1"}).join == "10.0.0.1"


def test_whose_etcd_the_swarm_uses_is_the_clusters_word_to_who_joins_and_does_not_say_it() -> None:
    """So one that contradicted goes on by leaving it out."""
    contradicted = on_top(JOINED, {"etcd": "dedicated"})

    assert contradicted.etcd == "dedicated"
    assert on_top(contradicted, {}).etcd == on_top(contradicted, {"join": "10.0.0.2"}).etcd == ""
    assert on_top(Options(etcd="dedicated"), {}).etcd == "dedicated"


def test_a_host_that_joined_with_an_external_etcd_goes_on_without_saying_so_again() -> None:
    joined = msgspec.structs.replace(JOINED, etcd="external", external=EXTERNAL)

    assert checked(on_top(joined, {})) == JOINED


def test_what_is_said_to_be_nothing_goes() -> None:
    found = on_top(FOUNDER, {"floating_ip": "", "dhcp": True})

    assert (found.floating_ip, found.dhcp, found.image) == ("", True, "x/y:1")


def test_the_defaults_are_for_what_was_never_said() -> None:
    assert on_top(None, {"image": "x/y:1"}) == Options(image="x/y:1")
    assert on_top(None, {"join": "10.0.0.1", "token_file": "/token"}).etcd == "", "the cluster says, never a default"


def test_who_is_told_to_be_another_kind_of_server_begins_anew() -> None:
    assert on_top(FOUNDER, {"join": "10.0.0.9", "token_file": "/token"}) == Options(
        etcd="", join="10.0.0.9", token_file="/token"
    )
    assert on_top(JOINED, {"join": "", "image": "x/y:1"}) == Options(image="x/y:1", join="")


@pytest.mark.parametrize(
    ("said", "external"),
    [
        ({"site": "fra1"}, EXTERNAL),
        ({"etcd": "external"}, EXTERNAL),
        (
            {"etcd_endpoints": ("https://b:2379",)},
            ExternalEtcd(endpoints=("https://b:2379",), ca_file="/ca", username="dragonfly", password_file="/pw"),
        ),
        ({"etcd": "shared"}, None),
    ],
)
def test_of_an_external_etcd_each_part_stays_for_itself(said: Said, external: ExternalEtcd | None) -> None:
    assert on_top(Options(etcd="external", external=EXTERNAL), said).external == external


def test_what_is_the_clusters_comes_from_its_record_and_what_is_the_hosts_from_the_host() -> None:
    record = Record(host="host-2", address="10.0.0.2", etcd="shared", image="x/y:2", tinkerbell_version="v0.26.0")
    said = {"site": "fra1"}

    found = taken_up(on_top(FOUNDER, said), said, record)

    assert found == Options(
        image="x/y:2", tinkerbell_version="v0.26.0", k3s_version="v1.2.3+k3s1", dhcp=True, site="fra1"
    )
    assert taken_up(FOUNDER, {}, None) == FOUNDER


def test_a_bundle_that_is_said_is_one_that_the_host_has() -> None:
    record = Record(host="host-2", address="10.0.0.2", etcd="shared", airgap=True)

    with pytest.raises(BadOptions, match="say where a bundle is"):
        taken_up(FOUNDER, {}, record)
    said = {"airgap": "/bundle"}
    assert taken_up(on_top(FOUNDER, said), said, record).airgap == "/bundle"


@pytest.mark.parametrize(
    ("said", "brings"),
    [
        ({}, None),
        ({"site": "fra1"}, None),
        ({"image": "x/y:2"}, False),
        ({"image": "x/y:2", "image_archive": "/image.tar"}, True),
        ({"airgap": "/bundle"}, True),
        ({"image_archive": ""}, False),
    ],
)
def test_how_an_image_comes_is_told_by_who_brings_it(said: Said, brings: bool | None) -> None:
    assert brings_image(said) is brings
