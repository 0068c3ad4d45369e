"""Dragonfly: a stateless, etcd-native swarm that provisions bare metal through Tinkerbell and Kubernetes."""

from importlib.metadata import version

__version__ = version("dragonfly")
