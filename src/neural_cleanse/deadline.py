"""Until when a scan may work: a moment that travels with the network and is looked at before every pass."""

import time


class Signal(Exception):
    """Ends a pass through a network on purpose: no failure of the network."""


class OutOfTime(Signal):
    """The deadline is past: what was under way is given up. Whoever began it says what was reached."""


class Deadline:
    """A moment, `seconds` from now. Pickled, it stays that moment, also on a machine that was started at another."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; under 0 afterwards."""
        return self._at - time.monotonic()

    def check(self) -> None:
        """Raise OutOfTime once it is past."""
        if self.left <= 0:
            raise OutOfTime

    def __getstate__(self) -> float:
        return time.time() + self.left

    def __setstate__(self, state: float) -> None:
        self._at = time.monotonic() + state - time.time()
