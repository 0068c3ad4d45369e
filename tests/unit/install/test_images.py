"""Which hosts lack an image."""

from typing import Any

import pytest

from dragonfly.install.images import Lacking, full_name, lacking

IMAGE = "dragonfly:0.2.0"
HAS = "docker.io/library/dragonfly:0.2.0"


def node(name: str, *images: str, ready: str = "True", unschedulable: bool = False) -> dict[str, Any]:
    status = {"conditions": [{"type": "Ready", "status": ready}], "images": [{"names": list(images)}]}
    return {"metadata": {"name": name}, "spec": {"unschedulable": unschedulable}, "status": status}


def test_those_that_pods_may_be_put_on_are_told_apart_from_those_that_are_away() -> None:
    nodes = [
        node("has", "docker.io/library/dragonfly@sha256:12", HAS),
        node("old", "docker.io/library/dragonfly:0.1.0"),
        node("dead", ready="Unknown"),
        node("drained", unschedulable=True),
        node("died later", HAS, ready="Unknown"),
        node("another", "registry.example.com/dragonfly:0.2.0"),
    ]

    found = Lacking(ready=("another", "old"), away=("dead", "drained"))
    assert lacking(nodes, IMAGE) == found
    assert lacking(nodes, HAS) == found
    assert found.without("old").without("dead") == Lacking(ready=("another",), away=("drained",))


def test_a_node_that_tells_of_no_images_has_none() -> None:
    silent = {"metadata": {"name": "silent"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert lacking([silent], IMAGE) == Lacking(ready=("silent",))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("dragonfly", "docker.io/library/dragonfly:latest"),
        ("dragonfly:1", "docker.io/library/dragonfly:1"),
        ("team/dragonfly", "docker.io/team/dragonfly:latest"),
        ("localhost/dragonfly:1", "localhost/dragonfly:1"),
        ("10.0.0.1:5000/dragonfly", "10.0.0.1:5000/dragonfly:latest"),
        ("registry.example.com/a/b@sha256:12", "registry.example.com/a/b@sha256:12"),
    ],
)
def test_names_are_completed_as_containerd_does_it(said: str, kept: str) -> None:
    assert full_name(said) == kept
