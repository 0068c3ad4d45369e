"""TLS to etcd from files that others renew: whoever connects gets what the files say now."""

from __future__ import annotations

import ssl
import threading

import structlog

from dragonfly.store.settings import EtcdSettings

_log = structlog.get_logger(__name__)

_Signature = tuple[tuple[int, int, int], ...]


class Tls:
    """The context for new connections; those that there are keep theirs. Safe to use from several threads."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Read the files.

        Raises:
            OSError: one can't be read; ssl.SSLError, which is one, if it holds something else.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._signature = self._look()
        self._context = _context(settings)

    def context(self) -> ssl.SSLContext:
        """Return what the files say; what they said before, while they are caught in the middle of being replaced."""
        with self._lock:
            try:
                signature = self._look()
                if signature != self._signature:
                    self._context = _context(self._settings)
                    self._signature = signature
                    _log.info("etcd.certificates_renewed")
            except OSError as error:
                _log.warning("etcd.certificates_unreadable", error=str(error))
            return self._context

    def _look(self) -> _Signature:
        files = (self._settings.ca_file, self._settings.cert_file, self._settings.key_file)
        found = (file.stat() for file in files if file is not None)
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)


def tls(settings: EtcdSettings) -> Tls | None:
    """Return the TLS set-up for `https://` endpoints; None if there are none. Raises as `Tls`."""
    return Tls(settings) if any(url.startswith("https://") for url in settings.endpoints) else None


def _context(settings: EtcdSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file is not None:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context
