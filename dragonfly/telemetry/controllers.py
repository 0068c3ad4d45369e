"""The controllers' work as metrics; what `controllers.around.Gauges` asks for."""

from dragonfly.model.provision import Provision
from dragonfly.telemetry.metrics import Metrics


class ControllerGauges:
    """Counts what the controllers of all clusters do."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def looked(self, cluster: str, waited: float, worked: float) -> None:
        self._metrics.queue.adds.labels(cluster).inc()
        self._metrics.queue.latency.labels(cluster).observe(waited)
        self._metrics.queue.work.labels(cluster).observe(worked)

    def retried(self, cluster: str) -> None:
        self._metrics.queue.retries.labels(cluster).inc()

    def ended(self, provision: Provision) -> None:
        self._metrics.provisions.labels(provision.status.phase).inc()

    def refused(self, cluster: str) -> None:
        self._metrics.swarm.refused.labels(cluster).inc()

    def replaced(self, cluster: str) -> None:
        self._metrics.swarm.replaced.labels(cluster).inc()
