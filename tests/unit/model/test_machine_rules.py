"""What a machine may say: each rule with the path of the field that breaks it."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly.model.machine import (
    Bmc,
    Disk,
    InstalledOs,
    Interface,
    Machine,
    MachineInput,
    MachineSpec,
    Observed,
    memorable_name,
    metadata_of,
    phase_of,
    status_of,
    validated,
)
from dragonfly.model.provision import ProvisionPhase, ProvisionSummary
from dragonfly.model.values import Invalid, MetadataInput, canonical_mac, is_dns_label, is_mac, utc

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MAC = "02:00:00:00:00:11"
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))


def fields(spec: MachineSpec) -> list[str]:
    with pytest.raises(Invalid) as caught:
        validated(spec)
    return [error.field for error in caught.value.errors]


def spec(**changes: Any) -> MachineSpec:
    return MachineSpec(**({"interfaces": (Interface(mac=MAC),)} | changes))


def interface(**changes: Any) -> MachineSpec:
    return spec(interfaces=(Interface(**({"mac": MAC} | changes)),))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (spec(cluster="Not A Name"), "spec.cluster"),
        (spec(cluster=""), "spec.cluster"),
        (spec(interfaces=()), "spec.interfaces"),
        (spec(hostname="under_score"), "spec.hostname"),
        (spec(hostname="a..b"), "spec.hostname"),
        (spec(hostname="a." * 127), "spec.hostname"),
        (interface(mac=""), "spec.interfaces[0].mac"),
        (interface(mac="02:00:00:00:00"), "spec.interfaces[0].mac"),
        (interface(mac="02:00:00:00:00:zz"), "spec.interfaces[0].mac"),
        (interface(mac=f"x{MAC}"), "spec.interfaces[0].mac"),
        (interface(mac=f"{MAC}\nx"), "spec.interfaces[0].mac"),
        (interface(dhcp=True, address="10.0.0.1/24"), "spec.interfaces[0].address"),
        (interface(address="10.0.0.1"), "spec.interfaces[0].address"),
        (interface(address="10.0.0.1/33"), "spec.interfaces[0].address"),
        (interface(address="10.0.0.256/24"), "spec.interfaces[0].address"),
        (interface(gateway="10.0.0"), "spec.interfaces[0].gateway"),
        (interface(gateway="10.0.0.0/24"), "spec.interfaces[0].gateway"),
        (interface(nameservers=("1.1.1.1", "dns")), "spec.interfaces[0].nameservers[1]"),
        (interface(vlan=0), "spec.interfaces[0].vlan"),
        (interface(vlan=4095), "spec.interfaces[0].vlan"),
        (interface(mtu=575), "spec.interfaces[0].mtu"),
        (interface(mtu=9217), "spec.interfaces[0].mtu"),
        (spec(disks=(Disk(device="/dev/sda"), Disk())), "spec.disks[1]"),
        (spec(boot="netboot"), "spec.boot"),
        (spec(boot="iso", bmc=Bmc(host="10.0.1.1")), "spec.isoURL"),
        (spec(bmc=Bmc(host=" ")), "spec.bmc.host"),
        (spec(bmc=Bmc(host="b", port=0)), "spec.bmc.port"),
        (spec(bmc=Bmc(host="b", port=65536)), "spec.bmc.port"),
        (spec(bmc=Bmc(host="b", port=80, protocol="rpc")), "spec.bmc.port"),
        (spec(bmc=Bmc(host="b", protocol="rpc", options={"systemName": "s"})), "spec.bmc.options.systemName"),
        (spec(bmc=Bmc(host="b", protocol="ipmi", options={"consumerURL": "u"})), "spec.bmc.options.consumerURL"),
        (spec(bmc=Bmc(host="b", options={"useBasicAuth": "no"})), "spec.bmc.options.useBasicAuth"),
    ],
)
def test_what_breaks_a_rule_is_told_with_its_path(wrong: MachineSpec, field: str) -> None:
    assert fields(wrong) == [field]


@pytest.mark.parametrize(
    "right",
    [
        spec(),
        spec(hostname="m-1.fra.Example.com"),
        interface(address="10.0.0.17/24", gateway="10.0.0.1", nameservers=("1.1.1.1", "2606:4700::1111")),
        interface(address="2001:db8::1/64"),
        interface(dhcp=True, vlan=1, mtu=576),
        interface(vlan=4094, mtu=9216),
        spec(disks=(Disk(min_size="480Gi", type="nvme"),)),
        spec(boot="iso", iso_url="http://10.0.0.1/x.iso", bmc=Bmc(host="10.0.1.1", port=443)),
    ],
)
def test_what_breaks_no_rule_is_kept_as_it_is(right: MachineSpec) -> None:
    assert validated(right) == right


def test_every_broken_rule_is_told_at_once() -> None:
    wrong = spec(cluster="", interfaces=(Interface(mac="x", vlan=0), Interface(mac=MAC, mtu=1)), boot="netboot")

    assert fields(wrong) == [
        "spec.cluster",
        "spec.interfaces[0].mac",
        "spec.interfaces[0].vlan",
        "spec.interfaces[1].mtu",
        "spec.boot",
    ]


def test_one_mac_in_two_spellings_is_still_the_same() -> None:
    twice = spec(interfaces=(Interface(mac="02:00:00:00:00:AA"), Interface(mac="0200.0000.00aa")))

    with pytest.raises(Invalid, match=r"interfaces\[1\].mac: is already that of interfaces\[0\]"):
        validated(twice)


@pytest.mark.parametrize(
    "text", ["02:00:00:AA:bb:11", "02-00-00-AA-BB-11", "0200.00aa.bb11", "020000aabb11", " 020000AABB11 "]
)
def test_usual_spellings_of_a_mac_are_stored_alike(text: str) -> None:
    stored = validated(interface(mac=text))

    assert stored.interfaces[0].mac == "02:00:00:aa:bb:11"


@given(MACS, st.sampled_from([":", "-", ""]), st.booleans())
def test_a_canonical_mac_is_a_fixed_point(mac: str, separator: str, upper: bool) -> None:
    spelled = mac.replace(":", separator)
    assert canonical_mac(spelled.upper() if upper else spelled) == mac
    assert canonical_mac(mac) == mac
    assert is_mac(mac)


@given(st.text())
def test_nothing_else_becomes_a_mac(text: str) -> None:
    result = canonical_mac(text)
    assert result == text or is_mac(result)


@given(MACS)
def test_a_memorable_name_is_a_name_and_always_the_same(mac: str) -> None:
    assert is_dns_label(memorable_name(mac))
    assert memorable_name(mac) == memorable_name(mac)
    assert memorable_name(mac).endswith(mac.replace(":", "")[-4:])


def test_memorable_names_do_not_change_between_versions() -> None:
    assert [memorable_name(mac) for mac in (MAC, "02:00:00:00:00:12")] == ["sunny-comet-0011", "smart-walnut-0012"]


@pytest.mark.parametrize(
    ("labels", "tags", "field"),
    [
        ({"": "x"}, (), "metadata.labels[]"),
        ({"a/b/c": "x"}, (), "metadata.labels[a/b/c]"),
        ({"-a": "x"}, (), "metadata.labels[-a]"),
        ({"Example.com/a": "x"}, (), "metadata.labels[Example.com/a]"),
        ({"a": "not allowed"}, (), "metadata.labels[a]"),
        ({"a": "x" * 64}, (), "metadata.labels[a]"),
        ({"a" * 64: ""}, (), f"metadata.labels[{'a' * 64}]"),
        ({}, ("ok", ""), "metadata.tags[1]"),
        ({}, ("x" * 64,), "metadata.tags[0]"),
        ({}, ("a\n",), "metadata.tags[0]"),
    ],
)
def test_labels_and_tags_have_rules(labels: dict[str, str], tags: tuple[str, ...], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        metadata_of(MetadataInput(labels=labels, tags=tags), "m-1", NOW)

    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "x" * 64, "a\n", "é"])
def test_a_name_is_a_dns_label(name: str) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name: must be a DNS label"):
        metadata_of(MetadataInput(), name, NOW)


def test_metadata_keeps_its_birthday_and_each_tag_once() -> None:
    sent = MetadataInput(labels={"example.com/rack": "r-1", "empty": ""}, tags=("b", "a", "b"), created_at=NOW)
    born = datetime(2020, 1, 1, tzinfo=UTC)

    kept = metadata_of(sent, "m-1", NOW, born)

    assert (kept.created_at, kept.updated_at, kept.tags) == (born, NOW, ("b", "a"))
    assert metadata_of(sent, "m-1", NOW).created_at == NOW


def test_an_unknown_field_is_told_with_its_path() -> None:
    document = b'{"spec": {"interfaces": [{"mac": "02:00:00:00:00:11", "adress": "10.0.0.1/24"}]}}'

    with pytest.raises(msgspec.ValidationError, match=r"unknown field `adress` - at `\$.spec.interfaces\[0\]`"):
        msgspec.json.decode(document, type=MachineInput)


def machine(**changes: Any) -> Machine:
    return Machine(metadata=metadata_of(MetadataInput(), "m-1", NOW), spec=spec(), **changes)


def summary(phase: ProvisionPhase, *, began: bool = False) -> ProvisionSummary:
    return ProvisionSummary(name="p", template="t", phase=phase, began=began)


INSTALLED = InstalledOs(template="t", revision=1, installed_at=NOW, provision="p")


@pytest.mark.parametrize(
    ("of", "observed", "active", "phase"),
    [
        (machine(), None, None, "Available"),
        (machine(), Observed(), None, "Available"),
        (machine(), None, summary("Pending"), "Provisioning"),
        (machine(), Observed(os=INSTALLED), summary("Running"), "Provisioning"),
        (machine(), Observed(os=INSTALLED, last_provision=summary("Succeeded")), None, "Deployed"),
        (machine(), Observed(last_provision=summary("Failed")), None, "Failed"),
        (machine(), Observed(os=INSTALLED, last_provision=summary("TimedOut")), None, "Failed"),
        (machine(), Observed(last_provision=summary("Cancelled")), None, "Available"),
        (machine(), Observed(os=INSTALLED, last_provision=summary("Cancelled")), None, "Deployed"),
        (machine(), Observed(os=INSTALLED, last_provision=summary("Cancelled", began=True)), None, "Failed"),
        (machine(deleting_since=NOW), Observed(os=INSTALLED), summary("Running"), "Deleting"),
    ],
)
def test_the_phase_is_a_function_of_what_is_stored(
    of: Machine, observed: Observed | None, active: ProvisionSummary | None, phase: str
) -> None:
    assert phase_of(of, observed, active) == phase
    assert status_of(of, observed, active, "replica-a").phase == phase


@given(st.floats(min_value=0, max_value=4e9))
def test_times_have_whole_milliseconds(timestamp: float) -> None:
    assert utc(timestamp).microsecond % 1000 == 0
