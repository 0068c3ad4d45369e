"""Metrics: each replica has its own, under names that dashboards rely on."""

from prometheus_client import CollectorRegistry, generate_latest

from dragonfly.telemetry.metrics import Metrics


def test_two_replicas_in_one_process_count_apart() -> None:
    first, second = (Metrics(CollectorRegistry(), version="1.2.3", replica=name, site="fra1") for name in "ab")

    first.provisions.labels("Succeeded").inc()
    first.queue.depth.labels("local").set(3)
    first.store.calls.labels("commit", "ok").inc()
    first.swarm.claims_held.labels("local").set(2)

    text = generate_latest(first.registry).decode()
    assert 'dragonfly_build_info{replica="a",site="fra1",version="1.2.3"} 1.0' in text
    assert 'dragonfly_provisions_total{result="Succeeded"} 1.0' in text
    assert 'dragonfly_queue_depth{queue="local"} 3.0' in text
    assert 'dragonfly_store_calls_total{call="commit",result="ok"} 1.0' in text
    assert 'dragonfly_swarm_claims_held{cluster="local"} 2.0' in text
    assert "Succeeded" not in generate_latest(second.registry).decode()
