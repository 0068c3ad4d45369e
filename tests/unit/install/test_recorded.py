"""The record of an installation that the cluster keeps: whole, without what is one host's, and read with care."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragonfly.install.cluster import Say
from dragonfly.install.execution import RecordChanged, StepFailed
from dragonfly.install.journal import Journal
from dragonfly.install.options import BadOptions, ExternalEtcd, Options
from dragonfly.install.record_kept import anothers, keep, seen
from dragonfly.install.recorded import (
    RECORD,
    RECORD_STEP,
    ClusterWide,
    Record,
    Seen,
    Server,
    UnknownRecord,
    as_object,
    cluster_wide,
    gone_back,
    parsed,
    record_of,
    recorded_options,
    text_of,
    written,
)
from dragonfly.install.steps import KeepRecord
from dragonfly.kube.resources import Ref

HERE = Server("host-2", "10.0.0.2")
FOUNDER = Server("host-1", "10.0.0.1")
EXTERNAL = ExternalEtcd(
    endpoints=("https://10.0.0.9:2379",), ca_file="/secrets/ca", username="dragonfly", password_file="/secrets/password"
)
FOUNDED = Options(
    etcd="external",
    external=EXTERNAL,
    floating_ip="10.0.0.50",
    tinkerbell_ip="10.0.0.51",
    artifacts_ip="10.0.0.52",
    airgap="/root/bundle",
    image="x/y:1",
    image_archive="/root/image.tar",
    k3s_version="v1.2.3+k3s1",
    tinkerbell_version="v0.24.0",
    site="fra1",
    dhcp=False,
)
JOINED = Options(etcd="", join="10.0.0.1", token_file="/root/token", airgap="/opt/bundle")


def test_it_has_what_is_the_clusters_and_nothing_that_is_secret_or_one_hosts() -> None:
    text = written(record_of(FOUNDED, FOUNDER, brought=True))

    assert json.loads(text) == {
        "version": 1,
        "host": "host-1",
        "address": "10.0.0.1",
        "etcd": "external",
        "endpoints": ["https://10.0.0.9:2379"],
        "floatingIp": "10.0.0.50",
        "tinkerbellIp": "10.0.0.51",
        "artifactsIp": "10.0.0.52",
        "artifactsUrl": "",
        "airgap": True,
        "image": "x/y:1",
        "brought": True,
        "site": "fra1",
        "dhcp": False,
        "tinkerbellVersion": "v0.24.0",
    }
    assert parsed(text) == record_of(FOUNDED, FOUNDER, brought=True)
    assert text_of(as_object(text)) == text
    assert text_of(None) == text_of({"data": None}) == ""


def test_a_host_that_joined_finds_in_it_what_the_founder_was_told() -> None:
    found = recorded_options(JOINED, record_of(FOUNDED, FOUNDER, brought=True))

    assert record_of(found, FOUNDER, brought=True) == record_of(FOUNDED, FOUNDER, brought=True)
    assert (found.join, found.token_file, found.airgap) == ("10.0.0.1", "/root/token", "/opt/bundle")
    assert found.k3s_version == JOINED.k3s_version
    assert found.external == ExternalEtcd(endpoints=EXTERNAL.endpoints, ca_file="", username="", password_file="")


def test_the_founder_keeps_the_files_that_it_alone_knows() -> None:
    record = Record(host="host-1", address="10.0.0.1", etcd="external", endpoints=("https://10.0.0.8:2379",))

    found = recorded_options(FOUNDED, record).external

    assert found is not None
    assert found.endpoints == ("https://10.0.0.8:2379",)
    assert (found.ca_file, found.password_file) == ("/secrets/ca", "/secrets/password")


def test_where_nothing_comes_from_the_internet_a_bundle_is_needed() -> None:
    record = record_of(FOUNDED, FOUNDER, brought=True)

    with pytest.raises(BadOptions, match="--airgap: nothing in this cluster comes from the internet"):
        recorded_options(Options(join="10.0.0.1", token_file="/root/token"), record)
    from_there = Record(host="host-1", address="10.0.0.1", etcd="shared")
    assert recorded_options(JOINED, from_there).airgap == "", "a bundle of this host alone changes nothing for others"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"version":2,"host":{}}', "has version 2, and this Dragonfly knows 1: a newer one wrote it"),
        ('{"version":1,"host":"host-1","address":"10.0.0.1","etcd":"mine"}', r"cannot be read: Invalid .*etcd"),
        ('{"host":"host-1"}', "cannot be read: .*`version`"),
        ('{"version":1,"etcd":"shared","address":"10.0.0.1"}', "cannot be read: .*`host`"),
        ("{", "cannot be read"),
    ],
)
def test_one_that_is_not_understood_is_not_guessed_at(text: str, why: str) -> None:
    with pytest.raises(UnknownRecord, match=f"ConfigMap dragonfly/dragonfly-installation {why}"):
        parsed(text)


def test_fields_that_a_later_version_1_adds_are_passed_over() -> None:
    text = '{"version":1,"host":"host-1","address":"10.0.0.1","etcd":"shared","more":7}'

    assert parsed(text) == Record(host="host-1", address="10.0.0.1", etcd="shared")


def test_tinkerbell_has_the_address_of_the_recorded_host_until_that_is_gone() -> None:
    options = Options(image="x/y:1")
    text = written(record_of(options, FOUNDER, brought=False))

    stays = cluster_wide(options, HERE, Seen(text, ("host-1", "host-2")))
    moves = cluster_wide(options, HERE, Seen(text, ("host-2", "host-3")))
    same = cluster_wide(options, Server("host-1", "10.0.0.7"), Seen(text, ("host-1",)))

    assert stays == ClusterWide(options, FOUNDER, before=text)
    assert stays.record == text
    assert moves == ClusterWide(options, HERE, gone="host-1", before=text)
    assert parsed(moves.record).address == "10.0.0.2"
    assert same.boots == Server("host-1", "10.0.0.7"), "a host knows its own address best"
    assert cluster_wide(options, HERE, Seen("")) == ClusterWide(options, HERE, before="")
    assert cluster_wide(options, HERE, Seen(None)) == ClusterWide(options, HERE)


def test_how_the_image_comes_to_hosts_is_kept_with_it() -> None:
    """A bundle or an archive of this host's says nothing of an image that was pulled since."""
    with_bundle = Options(image="x/y:1", airgap="/root/bundle")
    pulled = Seen(written(Record(host="host-1", address="10.0.0.1", etcd="shared", airgap=True, image="x/y:1")))

    assert cluster_wide(with_bundle, HERE, Seen("")).brought
    assert not cluster_wide(with_bundle, HERE, pulled).brought
    assert cluster_wide(with_bundle, HERE, pulled, brought=True).brought
    assert cluster_wide(Options(image="x/y:2", image_archive="/root/image.tar"), HERE, pulled).brought
    assert parsed(cluster_wide(with_bundle, HERE, Seen(None)).record).brought


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    return Journal(tmp_path / "install")


def recording(journal: Journal, text: str) -> None:
    journal.begun(RECORD_STEP, ())
    journal.done(RECORD_STEP, text)


def text(image: str) -> str:
    return written(Record(host="host-1", address="10.0.0.1", etcd="shared", image=image))


def test_a_record_is_anothers_unless_this_host_made_it_or_was_told_something_on_top_of_it(journal: Journal) -> None:
    journal.asked(Options(image="v1"))
    assert anothers(Seen(text("v0")), journal) is None, "it has not come so far yet"
    recording(journal, text("v1"))
    journal.installed("http://10.0.0.1:3000")
    assert anothers(Seen(text("v1")), journal) is None
    assert anothers(Seen(None), journal) is anothers(Seen(""), journal) is None
    assert anothers(Seen(text("v2")), journal) == parsed(text("v2"))

    journal.asked(Options(image="v2", site="fra1"), text("v2"))
    assert anothers(Seen(text("v2")), journal) is None, "what was told on top of it has not come to its end"
    assert anothers(Seen(text("v3")), journal) == parsed(text("v3"))
    recording(journal, text("v2 of fra1"))
    journal.installed("http://10.0.0.1:3000")
    assert anothers(Seen(text("v2")), journal) == parsed(text("v2")), "another has gone back to it"


def test_what_was_told_is_noted_once_until_it_comes_to_its_end(journal: Journal) -> None:
    journal.asked(Options(), "v1")
    before = (journal.directory / "journal").read_bytes()
    journal.asked(Options(), "v1")

    assert (journal.directory / "journal").read_bytes() == before
    journal.installed("http://10.0.0.1:3000")
    assert journal.told_on() is None
    journal.asked(Options(), "v1")
    assert journal.told_on() == "v1"


def test_one_that_an_older_version_installed_made_no_record(journal: Journal) -> None:
    """So each that there is is another's, put there by hand."""
    journal.asked(Options())
    journal.begun("k3s", ())
    journal.installed("http://10.0.0.1:3000")

    assert anothers(Seen(text("v2")), journal) == parsed(text("v2"))


def test_tinkerbell_stays_where_an_upgrade_that_went_back_has_taken_it() -> None:
    former = Record(host="host-1", address="10.0.0.1", etcd="shared", image="x/y:1", tinkerbell_version="v0.24.0")
    tried = Record(host="host-2", address="10.0.0.2", etcd="shared", image="x/y:2", tinkerbell_version="v0.25.0")

    found = parsed(gone_back(written(former), written(tried)))

    assert found == Record(host="host-2", address="10.0.0.2", etcd="shared", image="x/y:1")


def test_the_documentation_names_every_field() -> None:
    text = (Path(__file__).parents[3] / "docs" / "install.md").read_text(encoding="utf-8")
    section = text.partition("## The record of the installation\n")[2].partition("\n## ")[0]

    named = set(re.findall(r"`(\w+)`", section))
    assert {field.encode_name for field in msgspec.structs.fields(Record)} <= named


class Cluster:
    """A cluster that keeps a record."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.version = "7"
        self.comes_between = ""
        """What another server makes of it after it was read."""

    def get(self, ref: Ref) -> dict[str, Any] | None:
        assert ref == RECORD
        if not self.text:
            return None
        obj = as_object(self.text)
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": self.version}}

    def node_names(self) -> tuple[str, ...]:
        return ("host-1",)

    def apply(self, objects: list[dict[str, Any]], say: Say) -> None:
        (obj,) = objects
        if self.comes_between:
            self.text, self.comes_between = self.comes_between, ""
            raise StepFailed("ConfigMap dragonfly-installation is refused: the object has been modified")
        assert obj["metadata"].get("resourceVersion", self.version if not self.text else None) == self.version
        self.text = text_of(obj)


@pytest.mark.parametrize(("found", "before"), [("", ""), ("old", "old"), ("new", "old"), ("old", None), ("", "old")])
def test_the_record_is_replaced_by_who_has_read_it(found: str, before: str | None) -> None:
    cluster: Any = Cluster(found)
    if (found, before) == ("", "old"):
        with pytest.raises(StepFailed, match="another server has changed the installation meanwhile"):
            keep(cluster, KeepRecord(as_object("new"), before), lambda _: None)
        return

    assert keep(cluster, KeepRecord(as_object("new"), before), lambda _: None) == "new"
    assert seen(cluster) == Seen("new", ("host-1",))


def test_a_record_that_another_server_has_made_is_not_replaced() -> None:
    cluster: Any = Cluster("another's")

    with pytest.raises(StepFailed, match="another server has changed the installation meanwhile"):
        keep(cluster, KeepRecord(as_object("new"), "old"), lambda _: None)

    assert seen(cluster).text == "another's"


def test_neither_is_one_that_another_server_makes_at_this_very_moment() -> None:
    cluster: Any = Cluster("old")
    cluster.comes_between = "another's"

    with pytest.raises(RecordChanged):
        keep(cluster, KeepRecord(as_object("new"), "old"), lambda _: None)

    assert seen(cluster).text == "another's"
