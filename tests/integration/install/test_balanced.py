"""The addresses that a real cluster's load balancers have."""

from collections.abc import Iterator

import kubernetes
import pytest
from kubernetes import config

from dragonfly.install.cluster import Cluster
from dragonfly.sandbox.controlplane import NAMESPACE, ControlPlane

pytestmark = pytest.mark.cluster

ADDRESS, BY_NAME, NONE_YET = "balanced", "balanced-by-name", "balanced-not-yet"


@pytest.fixture
def services(control_plane: ControlPlane) -> Iterator[None]:
    api = config.new_client_from_config(str(control_plane.admin_kubeconfig))  # type: ignore[no-untyped-call] # the library's config has no types
    with api:
        core = kubernetes.client.CoreV1Api(api)
        for name, ingress in ((ADDRESS, {"ip": "10.0.0.50"}), (BY_NAME, {"hostname": "lb.example"}), (NONE_YET, None)):
            spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
            core.create_namespaced_service(NAMESPACE, {"metadata": {"name": name}, "spec": spec})  # type: ignore[arg-type] # the library takes a dict too, its types do not
            if ingress:
                status = {"status": {"loadBalancer": {"ingress": [ingress]}}}
                core.patch_namespaced_service_status(name, NAMESPACE, status)
        yield
        for name in (ADDRESS, BY_NAME, NONE_YET):
            core.delete_namespaced_service(name, NAMESPACE)


@pytest.mark.usefixtures("services")
def test_what_load_balancers_have_in_all_namespaces_is_the_clusters_own(control_plane: ControlPlane) -> None:
    assert Cluster(control_plane.admin_kubeconfig).balanced() == {"10.0.0.50"}
