"""Progress on stderr: one line that is rewritten on a terminal, a plain line now and then elsewhere, JSON lines for
machines, or nothing."""

import json
import math
import sys
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console

from neural_cleanse.detection.progress import Due, Progress
from neural_cleanse.errors import SettingsError
from neural_cleanse.results.records import LabelPair, Recovered

SECONDS_BETWEEN_EVENTS = 1.0
SMALLEST_SHOWN = 3
EPOCH = ", epoch "  # in the steps of a repair that are many: they are shown now and then
LOG_SCHEMA = 1  # docs/results.md says what the events hold; names are a contract within a number


@runtime_checkable
class ProgressSink(Protocol):
    """What is told of a scan: call it with every Progress, then `done` with the answer, then `close`."""

    def __call__(self, progress: Progress) -> None:
        """Say how far the scan is."""

    def step(self, text: str) -> None:
        """What a repair does now, in words."""

    def done(self, answer: str, flagged: tuple[int, ...], exit_code: int) -> None:
        """The work is over, with this answer."""

    def close(self) -> None:
        """Clear what stands on the terminal."""


@contextmanager
def watching(*, quiet: bool, log_json: bool) -> Iterator[ProgressSink]:
    """The watcher that --quiet and --log-json ask for, closed at the end. Raises SettingsError on both."""
    if quiet and log_json:
        raise SettingsError("--quiet says nothing and --log-json says everything.", cure="Pass one of them.")
    sink: ProgressSink = NoProgress() if quiet else JsonLines() if log_json else ProgressLine()
    try:
        yield sink
    finally:
        sink.close()


class StatusLine:
    """Call it with what is to be shown, as often as you like; close it when the work is over."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self.due = Due(self._console.is_terminal)

    def __call__(self, text: str, news: Hashable = None) -> None:
        """Show the text where it is due (`Due`)."""
        if not self.due(news):
            return
        if self._console.is_terminal:
            sys.stderr.write(f"\r\x1b[2K{text[: self._console.width - 1]}")
            sys.stderr.flush()
        else:
            self._console.print(text, markup=False, highlight=False)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.close()
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Clear the line."""
        if self._console.is_terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


class NoProgress:
    """Says nothing."""

    def __call__(self, progress: Progress) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def done(self, answer: str, flagged: tuple[int, ...], exit_code: int) -> None:
        """Nothing: the answer stands on stdout."""

    def close(self) -> None:
        """Nothing."""


class ProgressLine:
    """A StatusLine of a scan."""

    def __init__(self) -> None:
        self._status = StatusLine()
        self._step, self._said = "", False
        self._warned = set[str]()

    def step(self, text: str) -> None:
        """What is being done, shown now and before what a scan says."""
        self._step, self._said = f"{text}: ", True
        self._status.due.forget()
        self._status(text, None if EPOCH in text else text)

    def __call__(self, progress: Progress) -> None:
        """Show the line, and above it once what is warned of."""
        for warning in progress.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._status.say(f"warning: {warning}")
        said, self._said = self._said, False
        if said and progress.passes_done == 0:  # the step stands there, and this says no more
            return
        self._status(self._step + self.line(progress), progress.news)

    def line(self, progress: Progress) -> str:
        """Share done, time left, the phase, and the smallest triggers so far."""
        sizes = sorted((found.size, found.pair.target) for found in progress.finished if found.size is not None)
        smallest = ", ".join(f"{label}: {size:.1f} px" for size, label in sizes[:SMALLEST_SHOWN])
        return f"{progress}" + (f"; smallest {smallest}" if smallest else "")

    def done(self, answer: str, flagged: tuple[int, ...], exit_code: int) -> None:
        """Nothing: the answer stands on stdout."""

    def close(self) -> None:
        """Clear the line."""
        self._status.close()


class JsonLines:
    """An object a line: started, warning, progress, label_finished, done. In a repair each scan has its `started`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._last = self._began
        self._warned = set[str]()
        self._told: dict[LabelPair, Recovered] | None = None  # of this scan; None before the first one

    def __call__(self, progress: Progress) -> None:
        """Write the events that are due."""
        now = time.monotonic()
        if self._told is None or len(progress.finished) < len(self._told):
            self._told, self._last = {}, now
            self._write("started", schema=LOG_SCHEMA, labels=progress.num_labels, **_passes(progress))
        for warning in progress.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._write("warning", text=warning)
        for recovered in progress.finished:
            if self._told.get(recovered.pair) is not recovered:  # new, or searched further
                self._told[recovered.pair] = recovered
                self._write("label_finished", **_label(recovered))
        if now - self._last >= SECONDS_BETWEEN_EVENTS:
            self._last = now
            told = {"labels_finished": _labels(progress), "labels": progress.num_labels, **_passes(progress)}
            self._write(
                "progress", share=progress.share, seconds_left=progress.seconds_left, **_phase(progress), **told
            )

    def step(self, text: str) -> None:
        """Write what a repair does now."""
        self._write("step", text=text)

    def done(self, answer: str, flagged: tuple[int, ...], exit_code: int) -> None:
        """Write the last event."""
        self._write("done", answer=answer, flagged=list(flagged), exit_code=exit_code)

    def close(self) -> None:
        """Nothing: a line is whole when it is written."""

    def _write(self, event: str, **values: object) -> None:
        fields = {"event": event, **values, "wall_s": round(time.monotonic() - self._began, 3)}
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in fields.items()}
        sys.stderr.write(json.dumps(finite, allow_nan=False) + "\n")
        sys.stderr.flush()


def _passes(progress: Progress) -> dict[str, int]:
    return {"image_passes": progress.passes_done, "image_passes_planned": progress.passes_planned}


def _label(recovered: Recovered) -> dict[str, object]:
    return {
        "target": recovered.pair.target,
        "source": recovered.pair.source,
        "size": recovered.size,
        "asr": recovered.asr,
        "outcome": recovered.outcome.value,
        "image_passes": recovered.image_passes,
    }


def _labels(progress: Progress) -> int:
    return sum(found.pair.source is None for found in progress.finished)


def _phase(progress: Progress) -> dict[str, object]:
    phase = progress.phase
    return {"phase": phase.name, "phase_done": phase.done, "phase_count": phase.count, "phase_unit": phase.unit}
