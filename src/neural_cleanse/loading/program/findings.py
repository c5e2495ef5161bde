"""What in a program would run, told from outside: the names a pickle imports, the code of a TorchScript archive."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from neural_cleanse.loading.detect import Container
from neural_cleanse.loading.network import MAX_FINDINGS, FileIssue
from neural_cleanse.loading.program.pickles import imported

LINES_SHOWN = 5  # of the control flow in one file
# What a state_dict's pickle names; everything else is more than tensors.
TENSORS_ALONE = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.(set|bytearray|complex)|torch\.(\w+Storage|storage\.\w+Storage|Size|device|\w*Tensor|b?float\d+|u?int\d+|bool|"
    r"nn\.parameter\.Parameter|_utils\._rebuild_\w+)"
)
LAYERS = ("torch.nn.", "torch._C._nn.")  # of a pickled module; its own class stands beside them
TORCHSCRIPT_TYPES = ("__torch__.", "torch.jit._pickle.")  # of a TorchScript archive, not of Python
BRANCH = re.compile(rb"^[ \t]*(if|while|for)\b[^\n]{0,60}", re.MULTILINE)


def findings(container: Container, content: bytes) -> tuple[FileIssue, ...]:
    """At most MAX_FINDINGS; empty for a container that is no program of PyTorch's."""
    if container is Container.PICKLE:
        found = list(_imports("the pickle", content, ()))
    elif container is Container.CHECKPOINT:
        found = [one for name, part in _parts(content, ".pkl") for one in _imports(name, part, ())]
    elif container is Container.TORCHSCRIPT:
        found = [one for name, part in _parts(content, ".pkl") for one in _imports(name, part, TORCHSCRIPT_TYPES)]
        found += _sources(list(_parts(content, ".py")))
    else:
        found = []
    return tuple(found[:MAX_FINDINGS])


def _parts(content: bytes, ending: str) -> Iterator[tuple[str, bytes]]:
    """Entries of an archive that was checked before."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.endswith(ending):
                try:
                    yield name, archive.read(name)
                except (
                    zipfile.BadZipFile,
                    zlib.error,
                    EOFError,
                    OSError,
                    RuntimeError,
                    NotImplementedError,
                    ValueError,
                ):
                    continue  # damaged: it is not loaded either way


def _imports(place: str, pickled: bytes, ignored: tuple[str, ...]) -> Iterator[FileIssue]:
    names = [name for name in imported(pickled) if not TENSORS_ALONE.fullmatch(name) and not name.startswith(ignored)]
    layers = [name for name in names if name.startswith(LAYERS)]
    for name in names:
        if name not in layers:
            yield FileIssue(place, f"imports {name} and may call it", runs_code=True)
    if layers:
        yield FileIssue(place, f"a pickled module, of {len(layers)} kinds of torch.nn", runs_code=True)


def _sources(files: Sequence[tuple[str, bytes]]) -> Iterator[FileIssue]:
    """One finding for all of the code, and one for the control flow of each file."""
    if not files:
        return
    others = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    yield FileIssue(files[0][0] + others, "TorchScript code", runs_code=True)
    for place, source in files:
        branches = list(BRANCH.finditer(source))
        if not branches:
            continue
        lines = [str(source.count(b"\n", 0, branch.start()) + 1) for branch in branches[:LINES_SHOWN]]
        more = f" and {len(branches) - LINES_SHOWN} more" if len(branches) > LINES_SHOWN else ""
        where = f"{place}, line{'s' if len(branches) > 1 else ''} {', '.join(lines)}{more}"
        text = branches[0].group().strip().decode("utf-8", "replace")
        yield FileIssue(
            where, f"control flow that may depend on the image: {text}{' ...' if len(branches) > 1 else ''}"
        )
