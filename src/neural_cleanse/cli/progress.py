"""Progress on stderr: one line that is rewritten on a terminal, a plain line now and then elsewhere."""

import sys
import time

from rich.console import Console

from neural_cleanse.scan import Progress

SECONDS_BETWEEN_LINES = {True: 0.2, False: 10.0}  # on a terminal, elsewhere
SMALLEST_SHOWN = 3


class StatusLine:
    """Call it with what is to be shown, as often as you like; close it when the work is over."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES[self._console.is_terminal]:
            return
        self._last = now
        if self._console.is_terminal:
            sys.stderr.write(f"\r\x1b[2K{text[: self._console.width - 1]}")
            sys.stderr.flush()
        else:
            self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Clear the line."""
        if self._console.is_terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


class ProgressLine:
    """The same for a scan: call it with every Progress."""

    def __init__(self) -> None:
        self._status = StatusLine()
        self._began = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self._status(self.line(progress, time.monotonic() - self._began))

    def line(self, progress: Progress, elapsed: float) -> str:
        """Share done, time left, and the smallest triggers so far."""
        share = min(1.0, progress.passes_done / max(1, progress.passes_planned))
        left = f", about {elapsed / share - elapsed:.0f} s left" if share > 0.02 else ""
        sizes = sorted((found.size, found.pair.target) for found in progress.finished if found.size is not None)
        smallest = ", ".join(f"{label}: {size:.1f} px" for size, label in sizes[:SMALLEST_SHOWN])
        across = any(found.pair.source is not None for found in progress.finished)
        what = "pairs of labels" if across else "labels"
        text = f"{share:4.0%}, {len(progress.finished)} of {progress.num_labels} {what}{left}"
        return text + (f"; smallest {smallest}" if smallest else "")

    def close(self) -> None:
        """Clear the line."""
        self._status.close()
