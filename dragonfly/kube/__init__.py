"""Kubernetes clusters: connections, server-side apply, reflectors, and Tinkerbell's objects.

Callers speak to `port.Kube`; only this package imports the Kubernetes client.
"""
