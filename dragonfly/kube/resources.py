"""The Kubernetes resource types that Dragonfly speaks of, and where they live in the API."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as JSON."""


class Resource(NamedTuple):
    """A resource type. `group` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path. Without `namespace`, a namespaced type's path means all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


class Ref(NamedTuple):
    """One object, there or not. `namespace` is empty for types that have none."""

    resource: Resource
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace, self.name)

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.resource.kind} {place}"


HARDWARE: Final = Resource("tinkerbell.org", "v1alpha1", "hardware", "Hardware")
TEMPLATE: Final = Resource("tinkerbell.org", "v1alpha1", "templates", "Template")
WORKFLOW: Final = Resource("tinkerbell.org", "v1alpha1", "workflows", "Workflow")
BMC_MACHINE: Final = Resource("bmc.tinkerbell.org", "v1alpha1", "machines", "Machine")
BMC_JOB: Final = Resource("bmc.tinkerbell.org", "v1alpha1", "jobs", "Job")
BMC_TASK: Final = Resource("bmc.tinkerbell.org", "v1alpha1", "tasks", "Task")
SECRET: Final = Resource("", "v1", "secrets", "Secret")
EVENT: Final = Resource("", "v1", "events", "Event")
DEPLOYMENT: Final = Resource("apps", "v1", "deployments", "Deployment")
NAMESPACE: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CRD: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
ADMISSION_POLICY: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicies",
    "ValidatingAdmissionPolicy",
    namespaced=False,
)
ADMISSION_POLICY_BINDING: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    namespaced=False,
)
# What `dragonfly install` puts into a cluster, and looks at there.
NODE: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
POD: Final = Resource("", "v1", "pods", "Pod")
SERVICE: Final = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNT: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CONFIG_MAP: Final = Resource("", "v1", "configmaps", "ConfigMap")
DAEMON_SET: Final = Resource("apps", "v1", "daemonsets", "DaemonSet")
DISRUPTION_BUDGET: Final = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
ROLE: Final = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDING: Final = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE: Final = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING: Final = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
HELM_CHART: Final = Resource("helm.cattle.io", "v1", "helmcharts", "HelmChart")

KNOWN: Final = (
    HARDWARE,
    TEMPLATE,
    WORKFLOW,
    BMC_MACHINE,
    BMC_JOB,
    BMC_TASK,
    SECRET,
    EVENT,
    DEPLOYMENT,
    NAMESPACE,
    CRD,
    ADMISSION_POLICY,
    ADMISSION_POLICY_BINDING,
    NODE,
    SERVICE,
    SERVICE_ACCOUNT,
    CONFIG_MAP,
    DAEMON_SET,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    ROLE,
    ROLE_BINDING,
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    HELM_CHART,
)
_BY_TYPE: Final = {(resource.api_version, resource.kind): resource for resource in KNOWN}


def ref_of(obj: Mapping[str, Any]) -> Ref:
    """Where `obj` lives, from its apiVersion, kind, namespace and name.

    Raises:
        KeyError: a type that is not in `KNOWN`, or an object without metadata.name.
    """
    resource = _BY_TYPE[obj["apiVersion"], obj["kind"]]
    metadata = obj["metadata"]
    return Ref(resource, metadata.get("namespace", ""), metadata["name"])


def is_older(left: str, right: str) -> bool:
    """Whether the one resourceVersion is of an earlier time than the other; False where one is not a number.

    Kubernetes documents since 1.35 that they can be compared as integers, and it has always been so in practice.
    """
    return left.isdigit() and right.isdigit() and int(left) < int(right)
