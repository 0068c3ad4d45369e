"""What is installed here, where its cluster and etcd are: for `status` without a swarm, and `server` without etcd."""

import asyncio
import os
from collections.abc import Iterable

import msgspec
import structlog
from rich.console import Console
from rich.text import Text

from dragonfly.cli import documents
from dragonfly.cli.errors import CliError, Exit
from dragonfly.install.detection import ClusterFound, Detection, EtcdFound, Finding
from dragonfly.install.survey import Taken, survey, with_own_cluster
from dragonfly.settings import Settings
from dragonfly.telemetry import logs

_DEMO = "To see Dragonfly work on this computer, touching no hardware: dragonfly demo"
_WIDTH = 15


def run_with_etcd_found(settings: Settings) -> int:
    """Run a replica on the etcd that the cluster leads to.

    Raises:
        CliError: there is none, or it does not answer.
    """
    settings = with_own_cluster(settings, os.environ)
    found = asyncio.run(survey(settings, os.environ))
    if found.route is None:
        raise refusal(found.detection)
    from dragonfly.replica import run

    logs.configure(settings.log_format, settings.log_level)
    etcd = found.detection.etcd
    structlog.get_logger(__name__).info("etcd.found", place=etcd.place, endpoints=etcd.endpoints)
    return run(settings, Taken(found.route, etcd))


def refusal(found: Detection) -> CliError:
    """Return why no replica can run here, what was looked at, and what to do."""
    message, code = _reason(found)
    looked = "\n".join(f"  {finding.looked_at}: {finding.found}" for finding in (*found.why, *found.etcd.why))
    return CliError(f"{message}\nLooked at:\n{looked}", code, "\n".join([*found.advice, _DEMO]))


def _reason(found: Detection) -> tuple[str, Exit]:
    cluster, etcd = found.cluster, found.etcd
    if cluster is not None and cluster.broken:
        return f"no etcd is given, and the kubeconfig cannot be used: {cluster.reason}", Exit.USAGE
    if cluster is not None and not cluster.reachable:
        return f"no etcd is given, and the cluster does not tell: {cluster.reason}", Exit.UNREACHABLE
    if etcd.source == "relay":
        return f"no etcd answers here, nor the relay of {etcd.place}: {etcd.reason}", Exit.UNREACHABLE
    if etcd.endpoints:
        return f"the etcd of {etcd.place} does not answer here: {etcd.reason}", Exit.UNREACHABLE
    if etcd.place:
        return f"{etcd.place} cannot be used: {etcd.reason}", Exit.USAGE
    if found.mode == "not-installed":
        return "Dragonfly is not installed here, and no etcd is given", Exit.NOT_FOUND
    return f"no etcd is given: {etcd.reason}", Exit.NOT_FOUND


def tell_local(settings: Settings, out: Console, output: str = "table") -> int:
    """Look, print what was found and why, and return the exit code: whether a replica could work here."""
    found = asyncio.run(survey(with_own_cluster(settings, os.environ), os.environ)).detection
    is_well = _is_well(found)
    if output == "table":
        _print(found, out)
    else:
        document = {"kind": "LocalStatus", "ok": is_well} | msgspec.to_builtins(found)
        out.file.write(documents.written(document, output))
    return Exit.OK if is_well else Exit.FAILED


def _is_well(found: Detection) -> bool:
    can_work = found.mode != "not-installed" and found.etcd.reachable
    return can_work and (found.cluster is None or found.cluster.reachable)


def _print(found: Detection, out: Console) -> None:
    _line(out, "Mode", found.mode, "bold red" if found.mode == "not-installed" else "green")
    _findings(out, found.why)
    if found.cluster is not None:
        has_all = found.cluster.reachable and not found.cluster.missing
        _line(out, "Cluster", _cluster(found.cluster), "green" if has_all else "bold red")
    _line(out, "etcd", _etcd(found.etcd), "green" if found.etcd.reachable else "bold red")
    _findings(out, found.etcd.why)
    for number, advice in enumerate(found.advice):
        _line(out, "To do" if number == 0 else "", advice)


def _findings(out: Console, findings: Iterable[Finding]) -> None:
    for finding in findings:
        _line(out, "", f"{finding.looked_at}: {finding.found}{' (decides)' if finding.decides else ''}")


def _cluster(cluster: ClusterFound) -> str:
    if not cluster.reachable:
        return cluster.reason
    where = f"{cluster.server}, " if cluster.server else ""
    if not cluster.namespace:
        return f"{where}Kubernetes {cluster.version}, without Tinkerbell"
    version = f" {cluster.tinkerbell}" if cluster.tinkerbell else ""
    missing = f", without {', '.join(cluster.missing)}" if cluster.missing else ""
    return f"{where}Kubernetes {cluster.version}, Tinkerbell{version} in namespace {cluster.namespace}{missing}"


def _etcd(etcd: EtcdFound) -> str:
    if not etcd.endpoints:
        return etcd.reason if not etcd.place else f"{etcd.place}: {etcd.reason}"
    answers = "answers" if etcd.reachable else f"does not answer here: {etcd.reason}"
    return f"{', '.join(etcd.endpoints)} (from {etcd.place}), {answers}"


def _line(out: Console, title: str, value: str, style: str = "") -> None:
    out.print(Text((f"{title}:" if title else "").ljust(_WIDTH)) + Text(value, style=style), soft_wrap=True)
