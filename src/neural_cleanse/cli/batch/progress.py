"""How far a batch is, on stderr: a line for every finished model, and on a terminal the models under way below them.

Each process notes its share in a file of its own, which this one reads twice a second: an engine needs no channel back.
"""

import contextlib
import os
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from neural_cleanse.detection.progress import Progress
from neural_cleanse.report.batch import BatchRow, said
from neural_cleanse.text import escape, p_text

SECONDS_BETWEEN_NOTES = 0.5
BAR_WIDTH = 24


class Note:
    """A model's share of work done, in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, 0.0

    def write(self, progress: Progress) -> None:
        """Now and then, and never in the way of a scan."""
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_NOTES:
            self._last = now
            with contextlib.suppress(OSError):
                self._path.write_text(f"{progress.share:.4f}")


class BatchProgress:
    """Use it as a context, and tell it of every row."""

    def __init__(self, models: int, notes: Path | None) -> None:
        self._models, self._notes = models, notes
        self._done, self._scanned, self._began = 0, 0, time.monotonic()
        self._console = Console(stderr=True, soft_wrap=True)
        self._live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "BatchProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def finished(self, row: BatchRow) -> None:
        """Print its line and take it from those under way."""
        self._done += 1
        self._scanned += not row.kept
        if self._notes is not None:
            (self._notes / row.name).unlink(missing_ok=True)
        self._console.print(self._line(row), markup=False, highlight=False)

    def _line(self, row: BatchRow) -> str:
        parts = [row.answer + (f" {text}" if (text := said(row)) else "")]
        if row.p_value is not None:
            parts.append(f"p {p_text(row.p_value)}")
        if row.kept:
            parts.append("kept from an earlier run")
        elif row.wall_s is not None:
            parts.append(f"{row.wall_s:.0f} s")
        left = self._models - self._done
        if left and self._scanned:
            seconds = (time.monotonic() - self._began) / self._scanned * left
            parts.append(f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left")
        return f"{self._done} of {self._models}  {escape(row.name)}: {'; '.join(parts)}"

    def _picture(self) -> Table:
        """The models under way, by name."""
        table = Table.grid(padding=(0, 1))
        for name, share in sorted(self._under_way()):
            table.add_row(Text(name), ProgressBar(1.0, min(1.0, share), width=BAR_WIDTH), f"{min(1.0, share):4.0%}")
        return table

    def _under_way(self) -> list[tuple[str, float]]:
        found = []
        if self._notes is not None:
            with contextlib.suppress(OSError):
                for entry in os.scandir(self._notes):
                    with contextlib.suppress(OSError, ValueError):  # just finished, or just being written
                        found.append((entry.name, float(Path(entry.path).read_text())))
        return found
