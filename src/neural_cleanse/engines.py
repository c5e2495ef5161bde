"""Where independent jobs run: in this process, or in several on this machine, each with one torch thread.

One thread a process: small networks gain almost nothing from a second one, and idle OpenMP threads that spin cost
other processes up to fifteen times their speed (measured on a busy two-core machine).
"""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from neural_cleanse.allocator import keep_freed_memory
from neural_cleanse.errors import SettingsError, WorkerLost

J = TypeVar("J")
R = TypeVar("R")


class Engine(ABC):
    """Runs a function over jobs; results come as they finish, in any order."""

    @abstractmethod
    def map(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        """The results, one by one."""


@dataclass(frozen=True)
class InProcess(Engine):
    """One after the other, here."""

    def map(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        return map(function, jobs)


@dataclass(frozen=True)
class Processes(Engine):
    """`workers` processes of one thread each. Function, jobs and results must be picklable."""

    workers: int

    def map(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        """Raises WorkerLost when a process is killed from outside; what it had finished was yielded."""
        # Spawned, not forked: torch's threads do not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        # Plain pickles: torch's own way into another process shares memory by sockets, which a worker that is stopped
        # early leaves open at the other end. The function's is in a file, for a worker that dies before it has read
        # more than a pipe holds would be waited for without end.
        with tempfile.TemporaryDirectory(prefix="neural-cleanse-") as folder:
            file = _written(function, Path(folder) / "function")
            pool = ProcessPoolExecutor(self.workers, mp_context=spawn, initializer=_start_worker, initargs=(file,))
            yield from _results(pool, jobs)


def _written(function: Callable[[J], R], file: Path) -> Path:
    try:
        file.write_bytes(pickle.dumps(function))
    except Exception as error:  # whatever a network of somebody else's making raises
        raise SettingsError(
            f"The model cannot be pickled for a worker process: {error}.",
            cure="Leave out --workers: one process takes every kind of model.",
        ) from error
    return file


def _results(pool: ProcessPoolExecutor, jobs: Iterable[Any]) -> Iterator[Any]:
    """What the workers make of the jobs, as it comes; the pool is closed after that, however it ends."""
    try:
        for future in as_completed([pool.submit(_work, pickle.dumps(job)) for job in jobs]):
            yield pickle.loads(future.result())
    except BrokenProcessPool as error:
        raise WorkerLost(
            "A worker process was killed (out of memory?).",
            cure="Repeat the command, a scan with --resume: it goes on; --workers 1 needs the least memory. A "
            'script of your own must begin its work under `if __name__ == "__main__":`.',
        ) from error
    except BaseException:  # Ctrl-C, say: jobs that a worker was already handed would run to their end
        for process in list(pool._processes.values()):
            process.terminate()
        # One that ends amid a result leaves half of it in the pipe. Its reader, which the pool waits for, comes to an
        # end of the pipe only once this process holds no other end of it.
        pool._result_queue._writer.close()  # type: ignore[attr-defined]
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function: list[Any] = []  # what this process does, if it is a worker


def _start_worker(function: Path) -> None:
    """One torch thread; and an end of it when the parent is killed, which pool workers do not notice by themselves."""
    _function.append(function)
    torch.set_num_threads(1)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(job: bytes) -> bytes:
    """One job of a worker, which reads its function at the first one, where an error has somebody to go to."""
    if isinstance(_function[0], Path):
        _function[0] = pickle.loads(_function[0].read_bytes())
    return pickle.dumps(_function[0](pickle.loads(job)))
