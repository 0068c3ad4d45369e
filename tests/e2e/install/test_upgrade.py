"""`dragonfly upgrade` on an installed host: to a newer image, back from one that never starts, and not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dragonfly.store import keys
from tests.e2e.install.bare_host import BareHost, Done
from tests.e2e.install.etcd_keys import control_planes
from tests.e2e.install.installed import ALL, changed, finished, images, members
from tests.e2e.waiting import eventually, eventually_equal
from tests.node import replica_image
from tests.node.images import renamed

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(600)]

NEWER = "registry.example.com/dragonfly:0.2.0"
NOWHERE = "gone.example.com/dragonfly:0.3.0"
JOURNAL = "var/lib/dragonfly/install/journal"


def replaced(host: BareHost, installed: dict[str, Any], former: set[str]) -> set[str]:
    """The replicas, if none of the former ones is left."""
    now = members(host, installed["address"], installed["token"])
    return set() if now & former else now


def upgrade(host: BareHost, *arguments: str) -> Done:
    return host.dragonfly("upgrade", *arguments, "--yes", "-o", "json")


def test_an_upgrade_rolls_goes_back_and_leaves_alone_what_it_does_not_know(host: BareHost, tmp_path: Path) -> None:
    archive = renamed(replica_image.archive(), NEWER, tmp_path / "newer.tar")
    installed = finished(host.install(*ALL))
    former = members(host, installed["address"], installed["token"])

    newer = upgrade(host, "--image", NEWER, "--image-archive", str(archive))

    assert newer.code == 0, newer.err
    assert newer.events[-1] == {"event": "upgraded", "address": installed["address"]}
    assert any("of 3 replicas are new" in event["text"] for event in newer.events if event["event"] == "progress")
    eventually_equal(lambda: images(host), [NEWER] * 3, within=180)
    # A former one counts as a member until its lease has ended.
    current = eventually("all are new", lambda: replaced(host, installed, former), within=120)

    back = upgrade(host, "--image", NOWHERE, "--ready-within", "45")

    assert back.code == 1
    assert "the former version serves again: Wait until every replica is ready: not within 45 s" in back.err
    assert "ImagePull" in back.err
    assert NOWHERE in back.err
    eventually_equal(lambda: images(host), [NEWER] * 3, within=180)
    assert members(host, installed["address"], installed["token"]) == current
    again = host.install(*ALL)
    finished(again)
    assert changed(again) == {"self-test"}

    control_planes(host).put(keys.SCHEMA, json.dumps({"version": 9}))
    journal, wanted = (host.tree / JOURNAL).read_bytes(), host.objects("deployment", "dragonfly")["spec"]

    refused = upgrade(host, "--image", "registry.example.com/dragonfly:0.4.0")

    assert refused.code == 4
    assert "etcd holds layout version 9, and this Dragonfly knows 1; nothing was changed" in refused.err
    assert (host.tree / JOURNAL).read_bytes() == journal
    assert host.objects("deployment", "dragonfly")["spec"] == wanted
