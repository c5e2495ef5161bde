"""Files that are programs: TorchScript, pickled modules, Keras networks with code in them. Never run unless allowed.

With the user's leave the program runs in a child process, in a sandbox, and becomes a torch.export archive there. That
file is all that comes back, and it is read like any file of a stranger. Without a sandbox nothing is run unless
the user allows that too.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neural_cleanse.errors import CodeExecutionRefused, ModelError
from neural_cleanse.loading.network import FileIssue, Network, Trust
from neural_cleanse.loading.program import convert_in_child, sandbox
from neural_cleanse.loading.pt2 import reader as pt2

# What each kind is called, and the ending that its own loader insists on.
KINDS: Mapping[str, tuple[str, str]] = {
    "torchscript": ("TorchScript archive", ".pt"),
    "pickle": ("pickled module", ".pt"),
    "keras": ("Keras file with code", ".keras"),
    "keras h5": ("Keras HDF5 file with code", ".h5"),
}
MAX_GROWTH, ALWAYS_ALLOWED = 4, 64 * 1024**2  # what comes back: times the file, and bytes on top
SECONDS = 600.0
WITHOUT_SANDBOX = (
    "Make bubblewrap work; or pass --no-sandbox (no_sandbox=True) to run the program with all of your rights, on a "
    "machine that you can lose."
)
ASK_FOR_TENSORS = "Ask its author for safetensors, a state_dict or ONNX, or pass --allow-code if you trust them."


def read(
    content: bytes,
    name: str,
    kind: str,
    *,
    allow_code: bool,
    input_shape: tuple[int, int, int] | None,
    code: Path | None = None,
    seconds: float = SECONDS,
    no_sandbox: bool = False,
) -> Network:
    """The network of a program of `kind` (a key of KINDS), converted in a child process that may run `seconds`.

    `input_shape` (c, h, w) is needed where the file does not say it: for all but Keras. `code` is the user's own file
    with the classes that a pickle names; `no_sandbox` lets the program run where bubblewrap does not work. Raises
    CodeExecutionRefused before anything runs unless allowed, and ModelError when no network comes back.
    """
    container, ending = KINDS[kind]
    if not allow_code:
        raise CodeExecutionRefused(
            f"{name} is a {container}: a program, which runs code when loaded. Nothing of it was run.",
            cure=ASK_FOR_TENSORS,
        )
    if input_shape is None and not kind.startswith("keras"):
        raise ModelError(f"Nothing says which images {name} takes.", cure="Give input_shape=(channels, height, width).")
    if kind.startswith("keras") and importlib.util.find_spec("keras") is None:
        raise ModelError(f"{name} is run by Keras, which is not installed.", cure="pip install 'keras>=3.15'")
    with tempfile.TemporaryDirectory(prefix="neural-cleanse-") as folder:
        model, output = Path(folder).resolve() / f"model{ending}", Path(folder).resolve() / "converted.pt2"
        model.write_bytes(content)
        output.touch()
        script = Path(convert_in_child.__file__).resolve()
        shape = "-" if input_shape is None else ",".join(str(size) for size in input_shape)
        own = [] if code is None else [code.resolve()]
        command = [sys.executable, "-P", str(script), kind.split()[0], str(model), str(output), shape]
        limits = sandbox.Limits(seconds=seconds, file_bytes=MAX_GROWTH * len(content) + ALWAYS_ALLOWED)
        try:
            ran = sandbox.run(
                [*command, str(own[0]) if own else "-"],
                readable=[script, model, *(path.parent for path in own)],
                writable=output,
                limits=limits,
                no_sandbox=no_sandbox,
            )
        except sandbox.NoSandbox as why:
            raise CodeExecutionRefused(
                f"{name} is a {container}, and bubblewrap (bwrap), which would confine it, {why}. Nothing was run.",
                cure=WITHOUT_SANDBOX,
            ) from why
        converted = _converted(ran, output, limits.file_bytes, name)
    return _described(pt2.read(converted, f"What became of {name}"), container, isolated=ran.isolated)


def _described(network: Network, container: str, *, isolated: bool) -> Network:
    """The network that came back, with what it was read from and how that was run."""
    alone = "no sandbox: bubblewrap (bwrap) does not work here, the program ran with your rights"
    return replace(
        network,
        container=container,
        trust=Trust.PROGRAM_SANDBOXED if isolated else Trust.PROGRAM_UNCONFINED,
        assumed=(*network.assumed, *(() if isolated else (alone,))),
        findings=(FileIssue(container, "a program, which runs code when loaded", runs_code=True), *network.findings),
    )


def _converted(ran: sandbox.Ran, output: Path, limit: int, name: str) -> bytes:
    """What the child wrote. Raises ModelError in its words when it wrote nothing of use."""
    if ran.timed_out:
        raise ModelError(
            f"{name} did not finish loading in time and was ended.",
            cure="Ask its author for a state_dict, safetensors or ONNX.",
        )
    size = output.stat().st_size
    if ran.status != 0 or not 0 < size <= limit:
        last = next((line for line in reversed(ran.log.splitlines()) if line.strip()), f"exit status {ran.status}")
        raise ModelError(
            f"{name} could not be converted: {last[:300]}",
            cure="Classes of your own are found with --architecture FILE.py, other shapes with input_shape.",
        )
    with output.open("rb") as stream:
        return stream.read(limit)
