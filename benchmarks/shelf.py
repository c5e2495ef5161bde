"""How much sooner a shelf is done by two processes than by one: what two single-core workers bring.

    python benchmarks/shelf.py 'MODELS/*.safetensors' --data DATA --output benchmarks/results/shelf.jsonl [--rounds 2]

Each round scans the whole shelf with every number of workers, one after the other, so that whatever else the machine
does falls on all of them. Beside wall time a row has the processor time of all processes: with other work on the
machine, wall time alone says little. `cores_used` is processor time by wall time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neural_cleanse.evaluation.suite import run_info

WORKERS = (1, 2)
ANSWERED = (0, 1, 3)  # exit codes of a shelf without an error


def main() -> None:
    """Measure and append a row a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models")
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    around = run_info()
    for round_number in range(arguments.rounds):
        for workers in WORKERS:
            row = measure(arguments.models, arguments.data, workers) | {"round": round_number} | around
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def measure(models: str, data: str, workers: int) -> dict[str, Any]:
    """One run of the command, with nothing kept of its answers but how many there were of each."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "out"
        command = [sys.executable, "-m", "neural_cleanse", "scan", models, "--data", data]
        command += ["--device", "cpu", "--workers", str(workers), "--output", str(output)]
        load, began, before = os.getloadavg(), time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True)
        wall, after, load_after = (
            time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN), os.getloadavg(),
        )  # fmt: skip
        if done.returncode not in ANSWERED:
            sys.exit(done.stderr)
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "workers": workers,
        "models": len(summary["models"]),
        "counts": summary["counts"],
        "wall_s": round(wall, 1),
        "user_s": round(user, 1),
        "system_s": round(system, 1),
        "cores_used": round((user + system) / wall, 2),
        "load_before": round(load[0], 2),
        "load_after": round(load_after[0], 2),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
