"""Jobs over processes: the same results as here, no torch threads to spare, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from neural_cleanse.engines import Engine, InProcess, Processes
from neural_cleanse.errors import NeuralCleanseError, SettingsError

PARENT = """
import os, sys, time
from neural_cleanse.engines import Processes

def job(number):
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    list(Processes(2).map(job, range(4)))
"""


UNGUARDED = """
import sys
from functools import partial
from neural_cleanse.engines import Processes
from neural_cleanse.errors import WorkerLost

def job(blob, number):
    return number

try:
    list(Processes(1).map(partial(job, bytes(1_000_000)), range(2)))
except WorkerLost as error:
    sys.exit(str(error))
"""


def square(number: int) -> int:
    return number * number


def threads(_: int) -> int:
    return torch.get_num_threads()


def refuse(number: int) -> int:
    raise SettingsError(f"no {number}")


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize("engine", [InProcess(), Processes(2)])
def test_every_job_has_its_result(engine: Engine) -> None:
    assert sorted(engine.map(square, range(5))) == [0, 1, 4, 9, 16]


def test_a_worker_has_one_torch_thread() -> None:
    assert list(Processes(1).map(threads, [0])) == [1]


def test_a_script_without_a_guard_is_told_and_does_not_hang(tmp_path: Path) -> None:
    """Its workers run it again and die before they have read what they are to do."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1 and "__main__" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("engine", [InProcess(), Processes(1)])
def test_an_error_of_a_job_reaches_the_caller(engine: Engine) -> None:
    with pytest.raises(SettingsError, match="no 3"):
        list(engine.map(refuse, [3]))


def test_a_killed_worker_is_one_clear_error() -> None:
    with pytest.raises(NeuralCleanseError, match="killed"):
        list(Processes(1).map(die, [0]))


def test_an_interrupted_caller_waits_for_no_job() -> None:
    """Neither for the one under way nor for the one that the worker was handed in advance."""
    results = Processes(1).map(time.sleep, [0, 60, 60])
    next(results)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)
    assert time.monotonic() - began < 30


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 20
        while any(map(_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(_alive, workers))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
