"""Where independent jobs run: on a Ray cluster of your own. Ray is imported only when asked for.

Function, jobs and results travel as pickles, so whoever can reach the cluster can run code on it: it must be trusted.
"""

import importlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch

from neural_cleanse.engines import Engine, J, R
from neural_cleanse.errors import NeuralCleanseError, SettingsError, WorkerLost

RETRIES = 3  # of a job whose node or process was lost; an error of the job itself is not retried
CONNECT_S = 5.0  # Ray itself tries for two minutes, and then ends the process


@dataclass(frozen=True)
class RayEngine(Engine):
    """One Ray task a job, on one core, with `num_gpus` GPUs (a part of one is allowed).

    `address` is HOST:PORT of the cluster's head, `auto` for the cluster that this machine belongs to, or `local` for
    one that lives as long as the command. The function is put into the object store, from where each node fetches it
    once, with whatever a functools.partial holds: a job should name only what is its own.
    """

    address: str = "auto"
    num_gpus: float = 0.0

    def map(self, function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
        """Results as they come. The jobs of a lost node run again elsewhere, with the same results.

        Raises WorkerLost when a job lost its node or process too often, SettingsError when there is no Ray, no such
        cluster, or a cluster with another version of this program.
        """
        ray = _ray()
        connected = not ray.is_initialized()  # by us; a caller's own connection is left as it was
        if connected:
            _connect(ray, self.address)
        pending: list[Any] = []
        try:
            self._check_gpus(ray)
            shared = ray.put((function, _versions()))
            task = ray.remote(num_cpus=1, num_gpus=self.num_gpus, max_retries=RETRIES)(_run)
            pending = [task.remote(shared, job) for job in jobs]
            while pending:
                (ready,), pending = ray.wait(pending)
                yield _result(ray, ready)
        finally:  # Ctrl-C, an error, or a caller that needs no more: nothing goes on in the cluster
            for reference in pending:
                ray.cancel(reference, force=True)
            if connected:
                ray.shutdown()

    def _check_gpus(self, ray: ModuleType) -> None:
        """A task that asks for what no node has would wait for ever."""
        if self.num_gpus > ray.cluster_resources().get("GPU", 0.0):
            raise SettingsError(
                f"Each job needs {self.num_gpus:g} GPU, and no node of the Ray cluster has one.",
                cure="Start its nodes with ray start --num-gpus, or pass --device cpu.",
            )


def _ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise SettingsError(
            f"Ray is not installed: {error}.",
            cure="pip install 'neural-cleanse[ray]'; one machine needs no Ray, --workers N does it.",
        ) from error


def _connect(ray: ModuleType, address: str) -> None:
    cure = "ray start --head starts one here; --address HOST:PORT names another, --address local needs none."
    _reach(address, cure)
    own = {}
    if address == "local":
        own = {"include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = " ".join(str(error).split())
        raise SettingsError(f"The Ray cluster at {address} cannot be used: {said}", cure=cure) from error


def _reach(address: str, cure: str) -> None:
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise SettingsError(f"--address {address} is no address of a Ray cluster.", cure="Write HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(f"Cannot connect to {address}: {error}.", cure=cure) from error


def _versions() -> tuple[str, str]:
    """Of what a result depends on; +cpu and +cu130 of one version may work together."""
    return version("neural-cleanse"), torch.__version__.partition("+")[0]


def _run(shared: tuple[Callable[[J], R], tuple[str, str]], job: J) -> R:
    """What a task does, on its node."""
    function, theirs = shared
    if theirs != _versions():
        raise SettingsError(
            f"A node has neural-cleanse and torch {' and '.join(_versions())}, here they are {' and '.join(theirs)}.",
            cure="Install the same versions everywhere.",
        )
    torch.set_num_threads(1)  # as many as the cores that the task asked for
    return function(job)


def _result(ray: ModuleType, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, NeuralCleanseError):
            raise cause from error
        if isinstance(cause, RuntimeError) and "failed to import" in str(cause):
            raise SettingsError(
                "A node of the Ray cluster cannot import neural-cleanse.",
                cure="Install the same version on every node.",
            ) from error
        raise
    except ray.exceptions.RayError as error:
        said = str(error).split("\n", 1)[0]
        raise WorkerLost(
            f"A job was lost {RETRIES + 1} times with its node or process: {said}",
            cure="Has the node enough memory? Repeat the command when the cluster is well.",
        ) from error
