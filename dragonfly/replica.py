"""One replica: its parts put together, started, and ended in an order that loses nothing.

The one place that knows every layer. It starts to answer HTTP at once, so that probes and people see what it waits for;
it is ready when its mirror is, and it acts only on what it has claimed.
"""

import asyncio
import gc
import random
import signal
import socket
import time
from contextlib import AsyncExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from ulid import ULID

from dragonfly import __version__, startup
from dragonfly.api.access import AdminToken, Nobody
from dragonfly.api.app import create_app
from dragonfly.api.connections import HttpConnection
from dragonfly.api.context import Context, Webhooks, connects_to_nothing
from dragonfly.api.streams import Streams
from dragonfly.awareness import Awareness, LeaseView
from dragonfly.clusters import Clusters
from dragonfly.controllers.checkup import Turns
from dragonfly.controllers.dispatch import Dispatch
from dragonfly.feed.feed import Feed
from dragonfly.garbage import Survivors
from dragonfly.install.survey import Surveyor, Taken
from dragonfly.intent.machines import password_place
from dragonfly.model.machine import Machine
from dragonfly.model.swarm import Member
from dragonfly.model.values import LOCAL
from dragonfly.model.webhook import Webhook
from dragonfly.relay.relay import Relay
from dragonfly.settings import Settings
from dragonfly.startup import StartError
from dragonfly.store import keys, schema
from dragonfly.store.errors import SchemaUnknown, StoreError
from dragonfly.store.follow import Follower
from dragonfly.store.health import Health
from dragonfly.store.lease import LeaseKeeper, boottime
from dragonfly.store.measured import MeasuredStore
from dragonfly.store.mirror import Mirror
from dragonfly.store.past import EtcdPast
from dragonfly.store.records import decode
from dragonfly.store.seal import Unsealable
from dragonfly.swarm.agreement import Disagreement, agree_on_shards
from dragonfly.swarm.claims import owner_of
from dragonfly.swarm.duty import Duty
from dragonfly.swarm.ownership import Ownership
from dragonfly.swarm.roster import Roster
from dragonfly.swarm.shards import shard_of
from dragonfly.telemetry import logs
from dragonfly.telemetry.controllers import ControllerGauges
from dragonfly.telemetry.metrics import Metrics
from dragonfly.tended import Means as ClusterMeans
from dragonfly.tended import Setup
from dragonfly.webhooks.courier import DUTY, Courier, has_work
from dragonfly.webhooks.means import Means
from dragonfly.webhooks.sender import Sender, Verdict
from dragonfly.webhooks.trial import try_out

_log = structlog.get_logger(__name__)

_SETTLE: Final = 1.0
"""Seconds that a replica leaves to each better-ranked one to claim a shard that has no owner."""

_MARGIN: Final = 0.5
"""Seconds by which a replica stops acting before its lease can have ended."""

_DRAIN: Final = 2.0
"""Seconds of not being ready before connections are refused: load balancers look twice a second or so."""

_GRACEFUL: Final = 10
"""Seconds that running requests get to end."""

_LOOK: Final = 1.0
"""Seconds between two looks at whether the cluster is reached."""


def run(settings: Settings, taken: Taken | None = None) -> int:
    """Run one replica until SIGTERM or SIGINT; return the exit code.

    Args:
        settings: as they were given.
        taken: the way to etcd that was found, if no setting says one.
    """
    logs.configure(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Replica(settings, taken).serve())
    except StartError as error:
        _log.error("replica.cannot_start", error=str(error))
        return 1
    return 0


class _HttpServer(uvicorn.Server):
    """Uvicorn without its signal handlers: the replica's own ending has more to do."""

    def capture_signals(self) -> Any:
        return nullcontext()


class Replica:
    """The parts of one replica."""

    def __init__(self, given: Settings, taken: Taken | None = None) -> None:
        self._settings = settings = taken.route.settings if taken is not None else given
        self._surveyor = Surveyor(given, taken)
        self._started = _now()
        self._stopping = asyncio.Event()
        self._lease = LeaseView(settings.lease_ttl)
        self._metrics = Metrics(CollectorRegistry(), version=__version__, replica=settings.replica, site=settings.site)
        self._survivors = Survivors(gc, time.perf_counter)
        self._metrics.replica.collecting.set_function(lambda: self._survivors.paused)
        self._seal = startup.seal(settings)
        self._etcd = startup.etcd(settings, taken.route.way if taken is not None else None)
        gateway = self._etcd.gateway
        self._health = Health(now=_now, silence=self._lease.silence, watch=self._watch_error)
        self._store = MeasuredStore(self._etcd, self._metrics.store, self._health)
        self._mirror = Mirror(decode, clock=gateway.clock, on_undecodable=self._undecodable)
        self._past = EtcdPast(self._store, gateway)
        self._roster = Roster(self._mirror, settings.shards)
        self._feed = Feed(self._mirror, {LOCAL: settings.shards}, self._past, clock=gateway.clock)
        self._follower = Follower(self._store, gateway, self._mirror, jitter=random.random)
        self._relay = Relay(
            gateway, gateway.shared.tokens, away=lambda: self._health.silence, metrics=self._metrics.relay
        )

    async def serve(self) -> None:
        """Start, run, and end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._survivors.set_aside())
            listener = startup.listener(self._settings)
            stack.push_async_callback(self._etcd.close)
            self._clusters = self._make_clusters()
            self._ownership = self._make_ownership()
            self._clusters.belong_to(self._ownership)
            self._sender = await stack.enter_async_context(self._make_sender())
            self._duty = self._make_duty()
            self._courier = Courier(self._duty, self._means())
            self._awareness = self._make_awareness()
            stack.push_async_callback(self._awareness.stop)
            self._server = self._make_server()
            stack.push_async_callback(self._follower.stop)
            await self._follower.start()
            await self._run(listener)

    async def _run(self, listener: socket.socket) -> None:
        """Run all parts until the end is asked for or one of them fails, which is a bug that a restart must mend."""
        http = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        work = asyncio.create_task(self._work(), name="work")
        stop = asyncio.create_task(self._stopping.wait(), name="stop")
        _log.info(
            "replica.started", replica=self._settings.replica, listen=str(self._settings.listen), version=__version__
        )
        await asyncio.wait({http, work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        await self._end(http, work)
        for task in (http, work):
            if task.done() and not task.cancelled():
                task.result()
        _log.info("replica.stopped", replica=self._settings.replica)

    async def _work(self) -> None:
        looking = asyncio.create_task(self._look(), name="look")
        try:
            await self._work_on()
        finally:
            looking.cancel()

    async def _work_on(self) -> None:
        await self._mirror.wait_for(1, float("inf"))
        await self._check_schema()
        keeper = LeaseKeeper(
            self._etcd.gateway,
            asyncio.get_running_loop(),
            ttl=self._settings.lease_ttl,
            margin=_MARGIN,
            clock=boottime,
            on_new=lambda _: self._lease_changed(),
        )
        self._lease.keeper = keeper
        keeper.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ownership.run(), name="ownership")
            group.create_task(self._awareness.recover(), name="recover")
            group.create_task(self._leave_an_unknown_layout(), name="layout")
            if not self._settings.observe:
                self._drive(group)

    def _drive(self, group: asyncio.TaskGroup) -> None:
        """What one that only looks on leaves to the others: all work on clusters, and deliveries."""
        group.create_task(self._clusters.run(), name="clusters")
        group.create_task(self._duty.run(), name="duty webhooks")
        group.create_task(self._courier.run(), name="webhooks")

    async def _end(self, http: asyncio.Task[None], work: asyncio.Task[None]) -> None:
        """Not ready, hand over at once, leave load balancers their time, end the connections, give up the lease."""
        self._awareness.draining = True
        drained = asyncio.create_task(asyncio.sleep(_DRAIN))
        await self._hand_over(is_working=not work.done() and self._awareness.layout_trouble() is None)
        work.cancel()
        if not http.done():
            await drained
        self._feed.close()
        self._past.close()
        await self._relay.close()
        self._server.should_exit = True
        await asyncio.wait({http, work})

    async def _hand_over(self, *, is_working: bool) -> None:
        if is_working:
            await asyncio.gather(self._ownership.hand_over(), self._courier.hand_over())
        if self._lease.keeper is not None:
            await self._lease.keeper.close(revoke=True)

    async def _leave_an_unknown_layout(self) -> None:
        """Stop to work, for good, once somebody has laid out otherwise what is in etcd."""
        changed = asyncio.Event()
        self._mirror.subscribe(keys.SCHEMA, lambda _: changed.set())
        while (trouble := self._awareness.layout_trouble()) is None:
            await changed.wait()
            changed.clear()
        self._awareness.unfit = trouble
        _log.error("replica.must_not_work", error=str(trouble))
        await self._hand_over(is_working=True)

    async def _check_schema(self) -> None:
        """Refuse to work where the data is laid out otherwise than this replica knows; wait until etcd answers."""
        while True:
            try:
                await schema.ensure(self._store)
                if not self._settings.observe:
                    await agree_on_shards(self._store, LOCAL, self._settings.shards)
            except (SchemaUnknown, Disagreement) as error:
                self._awareness.unfit = error
                _log.error("replica.must_not_work", error=str(error))
                await asyncio.Event().wait()
            except StoreError as error:
                _log.warning("replica.waits_for_etcd", error=str(error))
                await asyncio.sleep(_LOOK)
            else:
                self._awareness.unfit = None
                return

    async def _look(self) -> None:
        while True:
            self._awareness.look()
            await asyncio.sleep(_LOOK)

    def _make_clusters(self) -> Clusters:
        settings = self._settings
        means = ClusterMeans(
            replica=settings.replica,
            store=self._store,
            mirror=self._mirror,
            dispatch=Dispatch(self._mirror),
            examinations=Turns(time.monotonic),
            metrics=self._metrics,
            gauges=ControllerGauges(self._metrics),
            unseal=self._unsealed,
            open=self._opened,
            started=self._started,
            in_pod=startup.is_in_pod(),
            now=_now,
            monotonic=time.monotonic,
            random=random.random,
        )
        return Clusters(Setup(startup.cluster(settings), settings.namespace, settings.shards), self._roster, means)

    def _make_ownership(self) -> Ownership:
        return Ownership(
            member=self._member,
            store=self._store,
            mirror=self._mirror,
            lease=self._lease,
            listener=self._clusters,
            shards=self._roster.shards,
            clock=time.monotonic,
            settle=_SETTLE,
            now=_now,
        )

    def _make_sender(self) -> Sender:
        settings = self._settings
        return Sender(
            allowed=settings.webhook_allow, plain_http=settings.webhook_http, user_agent=f"Dragonfly/{__version__}"
        )

    def _make_duty(self) -> Duty:
        duty = Duty(
            DUTY,
            replica=self._settings.replica,
            store=self._store,
            mirror=self._mirror,
            lease=self._lease,
            wanted=lambda: has_work(self._mirror),
            now=_now,
        )
        self._mirror.subscribe(keys.WEBHOOKS, lambda _: duty.look())
        return duty

    def _means(self) -> Means:
        return Means(
            store=self._store,
            mirror=self._mirror,
            feed=self._feed,
            sender=self._sender,
            unseal=self._opened,
            metrics=self._metrics.webhooks,
            now=_now,
            clock=time.monotonic,
            chance=random.random,
        )

    async def _try_out(self, webhook: Webhook, delivery: str) -> Verdict:
        return await try_out(webhook, delivery, sender=self._sender, unseal=self._opened, now=_now())

    def _make_awareness(self) -> Awareness:
        return Awareness(
            self._settings.replica,
            store=self._store,
            health=self._health,
            mirror=self._mirror,
            follower=self._follower,
            lease=self._lease,
            ownership=self._ownership,
            reach=self._clusters,
            shards=self._roster.shards,
            clock=self._etcd.gateway.clock,
            now=_now,
            observes=self._settings.observe,
        )

    def _make_server(self) -> _HttpServer:
        config = uvicorn.Config(
            create_app(self._context()),
            http=HttpConnection,
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACEFUL,
        )
        return _HttpServer(config)

    def _context(self) -> Context:
        settings = self._settings
        return Context(
            replica=settings.replica,
            site=settings.site,
            version=__version__,
            store=self._store,
            mirror=self._mirror,
            access=AdminToken(Path(settings.admin_token_file)) if settings.admin_token_file else Nobody(),
            metrics=self._metrics,
            now=_now,
            clock=self._etcd.gateway.clock,
            new_ulid=lambda: str(ULID()),
            clusters=self._roster,
            sites_of=self._roster.sites_of,
            check_cluster=connects_to_nothing if settings.observe else self._clusters.check,
            identify=self._clusters.identify,
            owner_of=self._owner_of,
            insight=self._awareness.insight(),
            feed=self._feed,
            streams=Streams(self._feed, self._metrics.feed, clock=self._etcd.gateway.clock),
            checks=self._awareness.checks(),
            leaving=lambda: self._awareness.draining,
            etcd_id=lambda: f"{self._etcd.gateway.cluster_id:x}",
            sealer=self._seal,
            webhooks=Webhooks(self._try_out, settings.webhook_http),
            relay=self._relay,
            mode=self._surveyor.detection,
        )

    def _owner_of(self, cluster: str, machine: str) -> str:
        shards = self._roster.get(cluster)
        return owner_of(self._mirror, keys.claim(cluster, shard_of(machine, shards))) if shards else ""

    def _lease_changed(self) -> None:
        self._ownership.look()
        self._duty.look()

    def _member(self) -> Member:
        unreached = self._clusters.unreached
        return Member(
            id=self._settings.replica,
            site=self._settings.site,
            version=__version__,
            address=str(self._settings.advertise),
            started=self._started,
            observes=self._settings.observe,
            clusters=self._clusters.reached,
            unreachable={name: reach.since for name, reach in unreached.items() if reach.since is not None},
            troubles={name: reach.reason for name, reach in unreached.items() if reach.reason},
            admission_policies=self._clusters.admission_policies,
            checkups=self._clusters.checkups,
        )

    def _unsealed(self, machine: Machine) -> str:
        return self._opened(password_place(machine.name), machine.sealed_password)

    def _opened(self, place: str, sealed: str) -> str:
        if self._seal is None:
            raise Unsealable("this replica has no secret key: set DRAGONFLY_SECRET_KEY_FILE")
        return self._seal.open(place, sealed)

    def _watch_error(self) -> Exception | None:
        return None if self._follower.state.connected else self._follower.state.error

    def _undecodable(self, key: str, reason: str) -> None:
        self._metrics.store.undecodable.inc()
        _log.error("store.undecodable", key=key, reason=reason)

    def _stop(self, number: int) -> None:
        _log.info("replica.stopping", signal=signal.Signals(number).name)
        self._stopping.set()


def _now() -> datetime:
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
