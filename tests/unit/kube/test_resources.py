import pytest

from dragonfly.kube.resources import CRD, HARDWARE, KNOWN, SECRET, Ref, ref_of


def test_paths() -> None:
    assert HARDWARE.path("ns", "m", "status") == "/apis/tinkerbell.org/v1alpha1/namespaces/ns/hardware/m/status"
    assert HARDWARE.path() == "/apis/tinkerbell.org/v1alpha1/hardware"
    assert Ref(SECRET, "ns", "s").path == "/api/v1/namespaces/ns/secrets/s"
    assert Ref(CRD, "ignored", "c").path == "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/c"


def test_an_object_tells_where_it_lives() -> None:
    obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "ns"}}

    assert ref_of(obj) == Ref(SECRET, "ns", "s")
    assert str(ref_of(obj)) == "Secret ns/s"
    with pytest.raises(KeyError):
        ref_of(obj | {"kind": "Pod"})


def test_no_two_types_share_a_name() -> None:
    assert (
        len({(one.group, one.plural) for one in KNOWN}) == len({(one.group, one.kind) for one in KNOWN}) == len(KNOWN)
    )
