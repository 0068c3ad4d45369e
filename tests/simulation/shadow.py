"""What a mirror must hold at its revision, followed on its own from etcd's log (P9)."""

from dragonfly.store.mirror import Mirror
from tests.simulation.etcd import EtcdServer


class Shadow:
    """What a mirror must hold, followed on its own from etcd's log."""

    def __init__(self, etcd: EtcdServer) -> None:
        self._etcd = etcd
        self._position = 0
        self._held: dict[str, int] = {}

    def differs(self, mirror: Mirror) -> str:
        if mirror.revision < self._position:
            return f"the mirror went back from revision {self._position} to {mirror.revision}"
        touched = set()
        events = self._etcd.state._events
        start = self._etcd.first_event_after(self._position)
        for event in events[start:]:
            if event.revision > mirror.revision:
                break
            touched.add(event.key)
            if event.item is None:
                self._held.pop(event.key, None)
            else:
                self._held[event.key] = event.item.mod_revision
        self._position = mirror.revision
        for key in sorted(touched):
            held = mirror.get(key)
            found = held.mod_revision if held else None
            if found != self._held.get(key):
                return f"{key} is at {found} in the mirror and at {self._held.get(key)} in etcd"
        return "" if len(mirror._held) == len(self._held) else "the mirror holds other keys than etcd"
