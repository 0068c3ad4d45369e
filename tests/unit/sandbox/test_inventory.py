import itertools
import re

import msgspec

from dragonfly.model import machine, template
from dragonfly.model.values import is_dns_label
from dragonfly.sandbox.inventory import KINDS, mac, machines, templates


def test_a_thousand_machines_have_names_macs_and_addresses_of_their_own() -> None:
    made = list(machines(1_000))
    interfaces = [interface for one in made for interface in one["spec"]["interfaces"]]

    for values in (
        [one["metadata"]["name"] for one in made],
        [interface["mac"] for interface in interfaces],
        [interface["address"] for interface in interfaces],
    ):
        assert len(values) == len(set(values))
    assert all(is_dns_label(one["metadata"]["name"]) for one in made)
    assert all(re.fullmatch(r"02(:[0-9a-f]{2}){5}", interface["mac"]) for interface in interfaces)


def test_the_three_kinds_come_in_turn_and_differ() -> None:
    made = list(machines(24))

    for kind, one in zip(itertools.cycle(KINDS), made, strict=False):
        assert one["metadata"]["labels"]["kind"] == kind.name
    assert len({tuple(disk["device"] for disk in one["spec"]["disks"]) for one in made}) == 3
    assert {len(one["spec"]["interfaces"]) for one in made} == {1, 2}


def test_a_machines_first_mac_is_its_agents_id() -> None:
    assert [one["spec"]["interfaces"][0]["mac"] for one in machines(300)] == [mac(n) for n in range(300)]


def test_templates_have_timeouts_and_use_only_what_is_known() -> None:
    known = {"machine.disk", "machine.hostname", "parameters.mirror", "parameters.sshKey"}
    for made in templates():
        spec = made["spec"]
        used = set(re.findall(r"{{ (\S+) }}", str(spec["actions"])))

        assert spec["globalTimeout"] >= 1
        assert all(action["timeout"] >= 1 for action in spec["actions"])
        assert used == known
        assert set(spec["parameters"]["properties"]) == {"mirror", "sshKey"}


def test_dragonfly_itself_takes_every_body() -> None:
    for body in machines(100):
        machine.validated(msgspec.convert(body, machine.MachineInput).spec)
    for body in templates():
        template.validated(msgspec.convert(body, template.TemplateInput).spec)
