"""What stands in a torch.export archive beside the network: what a scan cannot see, and what torch would run."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from neural_cleanse.loading.network import MAX_FINDINGS, FileIssue
from neural_cleanse.loading.pt2.archive import Archive
from neural_cleanse.text import plain

MAX_PICKLE = 64 * 1024**2  # bytes; example images

# Operators whose answer jumps: what depends on it no gradient shows, so that a search does not see it either.
JUMPS = ("argmax", "argmin", "ceil", "eq", "floor", "ge", "gt", "le", "lt", "ne", "round", "sign", "trunc")
# What the shape expressions and guards that torch.export writes are made of. Any other word may be code.
SHAPE_WORDS = re.compile(
    "Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|FloatTrueDiv|"
    "ModularIndexing|Max|Min|Where|Eq|Ne|Equality|Unequality|Ge|Gt|Le|Lt|GreaterThan|LessThan|StrictGreaterThan|"
    "StrictLessThan|And|Or|Not|True|False|true|false|positive|integer|nonnegative|real|oo|int_oo|ToFloat|RoundToInt|"
    r"TruncToInt|TruncToFloat|FloorToInt|CeilToInt|PowByNatural|Identity|[suzf]\d+"
)
GUARD_WORDS = re.compile("L|G|size|shape|dim|ndim|stride|storage_offset|and|or|not|is|in|None|" + SHAPE_WORDS.pattern)
QUOTED = re.compile(r"'\w+'|\"\w+\"")
WORD = re.compile(r"[^\W\d]\w*")


def findings_in(archive: Archive, model: str, program: Mapping[str, Any]) -> tuple[FileIssue, ...]:
    """At most MAX_FINDINGS of them, in the order of the file. Raises KeyError, TypeError and the like for damage."""
    found: list[FileIssue] = []
    for finding in _all(archive, model, program):
        found.append(finding)
        if len(found) == MAX_FINDINGS:
            break
    return tuple(found)


def _all(archive: Archive, model: str, program: Mapping[str, Any]) -> Iterator[FileIssue]:
    yield from _pickles(archive, model)
    for entry in archive.entries:
        if entry.startswith("data/aotinductor/"):
            yield FileIssue(plain(entry), "compiled code (AOTInductor), which is not loaded", runs_code=True)
    for number, guard in enumerate(program.get("guards_code") or []):
        if not _made_of(GUARD_WORDS, guard):
            yield FileIssue(f"guards_code {number}", f"code that torch.export compiles: {plain(guard)}", runs_code=True)
    graph = program["graph_module"]["graph"]
    for text in _expressions(graph):
        if not _made_of(SHAPE_WORDS, text):
            yield FileIssue("sizes", f"an expression that torch.export evaluates: {plain(text)}", runs_code=True)
    seen = {name for spec in program["graph_module"]["signature"]["input_specs"] for name in _images(spec)}
    for number, node in enumerate(graph["nodes"]):
        of_the_image = not seen.isdisjoint(_named(node["inputs"]))
        yield from _operator(f"operator {number}", node, of_the_image)
        if of_the_image:
            seen.update(_named(node["outputs"]))


def _made_of(words: re.Pattern[str], text: str) -> bool:
    """Whether every word of `text` outside quotes is one of `words`."""
    return all(words.fullmatch(word) for word in WORD.findall(QUOTED.sub("", text)))


def _pickles(archive: Archive, model: str) -> Iterator[FileIssue]:
    for folder in ("weights", "constants"):
        config = archive.parsed(f"data/{folder}/{model}_{folder}_config.json")["config"]
        for tensor_name, entry in config.items():
            if entry["use_pickle"] is not False:
                what = "a pickled object, which torch.export.load unpickles"
                yield FileIssue(f"data/{folder} {plain(tensor_name)}", what, runs_code=True)
    entry = f"data/sample_inputs/{model}.pt"
    if entry in archive.entries and not _holds_tensors_only(archive.read(entry)):
        yield FileIssue(entry, "more than example images: torch.export.load unpickles it", runs_code=True)


def _holds_tensors_only(content: bytes) -> bool:
    if len(content) > MAX_PICKLE:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
    except Exception:  # what a damaged or hostile pickle makes the restricted unpickler raise is no one family
        return False
    return True


def _expressions(graph: Mapping[str, Any]) -> Iterator[str]:
    """Every shape expression, in the values of the graph and in the tensors' sizes."""
    for kind in ("sym_int_values", "sym_float_values", "sym_bool_values"):
        for value in (graph.get(kind) or {}).values():
            if "as_expr" in value:
                yield value["as_expr"]["expr_str"]
    for meta in graph["tensor_values"].values():
        for size in (*meta["sizes"], *meta["strides"], meta["storage_offset"]):
            if "as_expr" in size:
                yield size["as_expr"]["expr_str"]


def _images(spec: Mapping[str, Any]) -> Iterator[str]:
    return _named(spec.get("user_input", {}))


def _named(argument: Any) -> Iterator[str]:
    """The values that an argument of the schema names."""
    if isinstance(argument, list):
        for part in argument:
            yield from _named(part)
    elif isinstance(argument, dict):
        yield from (argument[key] for key in ("name", "as_name") if key in argument and "arg" not in argument)
        yield from _named(list(argument.values()))


def _operator(place: str, node: Mapping[str, Any], of_the_image: bool) -> Iterator[FileIssue]:
    _, _, rest = node["target"].partition("torch.ops.")
    library, _, name = rest.partition(".")
    infinite = any(item["arg"].get("as_float") in ("Infinity", "-Infinity") for item in node["inputs"])
    if library == "higher_order":
        yield FileIssue(place, f"{plain(name)}: control flow, or code in a graph of its own")
    elif rest and library != "aten":
        yield FileIssue(place, f"{plain(rest)}: a custom operator, whose code is not in the file")
    elif of_the_image and name.partition(".")[0].removesuffix("_") in JUMPS and not infinite:
        yield FileIssue(place, f"{plain(name)}: an answer that jumps, past which no gradient goes")
