"""How fast Dragonfly may ask one cluster, and how long it waits after a failure. Pure: time is an argument."""

import msgspec


class TokenBucket:
    """At most `burst` calls at once and `rate` a second in the long run, first come, first served.

    A caller reserves its turn with `take` and sleeps for as long as it says; a turn that is reserved is spent.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now
        self._held_until = now

    def take(self, now: float) -> float:
        """Reserve one turn; the answer is how many seconds from now it begins."""
        self._refill(now)
        self._tokens -= 1
        return self._delay(now, -self._tokens)

    def ahead(self, now: float) -> float:
        """How many seconds from now a turn that is reserved now would begin."""
        self._refill(now)
        return self._delay(now, 1 - self._tokens)

    def hold(self, until: float) -> None:
        """Begin no turn before `until`: the server asked for a rest (429 with Retry-After)."""
        self._held_until = max(self._held_until, until)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def _delay(self, now: float, owed: float) -> float:
        return max(owed / self._rate, self._held_until - now, 0.0)


class Backoff(msgspec.Struct, frozen=True):
    """Exponential back-off with full jitter that forgets slowly.

    One success after a row of failures takes one step back, not all of them: a server that accepts each connection and
    drops it at once must not be asked at full speed again and again.
    """

    first: float = 0.05
    most: float = 30.0
    level: int = 0

    def worse(self) -> "Backoff":
        return msgspec.structs.replace(self, level=min(self.level + 1, 16))

    def better(self) -> "Backoff":
        return msgspec.structs.replace(self, level=max(self.level - 1, 0))

    def calm(self) -> "Backoff":
        return msgspec.structs.replace(self, level=0)

    def delay(self, chance: float) -> float:
        """Seconds to wait; `chance` in [0, 1) is the jitter."""
        return min(self.most, self.first * float(2**self.level)) * chance

    def rest(self, chance: float) -> float:
        """As `delay`, but at least half of it: for what is asked again and again, not once more."""
        return self.delay(0.5 + chance / 2)
