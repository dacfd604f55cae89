"""How long each part may take, so that all of them fit into the time that there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# What is left for the last words of a run: killing a part, writing the tables.
LAST_WORDS = 6.0


@dataclass(frozen=True)
class Share:
    """A part's time in seconds, of a run of `WHOLE` seconds; another run's parts have more or less of everything."""

    name: str
    # The most that it gets.
    most: float
    # What parts before it may not take from it.
    kept: float
    # Below this it is not begun.
    least: float


WHOLE = 540.0
SHARES = (
    Share("machine", 40, 10, 3),
    Share("truth", 175, 60, 15),
    Share("jobs", 70, 35, 10),
    Share("speed", 330, 150, 15),
    Share("where", 110, 55, 10),
)
NAMES = tuple(share.name for share in SHARES)


class Budget:
    """The time of a whole run: each part gets what it may take, less what is kept for those behind it."""

    def __init__(
        self, seconds: float, chosen: Iterable[str] = NAMES, now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._end = now() + seconds - min(LAST_WORDS, seconds / 10)
        self._scale = min(1.0, seconds / WHOLE)
        self._ahead = [share for share in SHARES if share.name in set(chosen)]

    def left(self) -> float:
        """Seconds for all parts that have not begun."""
        return self._end - self._now()

    def begin(self, name: str) -> float | None:
        """The limit of the next part in seconds, or None where too little is left to begin it."""
        share = next(share for share in self._ahead if share.name == name)
        self._ahead.remove(share)
        kept = sum(later.kept for later in self._ahead) * self._scale
        # Nobody waits behind the last one.
        most = share.most if self._ahead else self.left()
        limit = min(most, self.left() - kept)
        return limit if limit >= share.least * self._scale else None
