"""The values of a torch.export graph by name, and who shares memory with whom.

Our steps change no value; the graph's may. What an operator writes in place is read as a new value under the old
name, and the windows on the old one (views) must then not be used again: such a graph is refused, never misread.
"""

from dataclasses import dataclass, field

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.graph import Value


@dataclass
class Values:
    """The names that have a value so far, `given` ones (images, weights) and those that operators made."""

    file: str
    given: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    _root: dict[str, str] = field(default_factory=dict)  # value -> the one whose memory it may share
    _sharing: dict[str, list[str]] = field(default_factory=dict)  # the reverse
    _now: dict[str, str] = field(default_factory=dict)  # value overwritten in place -> its next value
    _stale: set[str] = field(default_factory=set)  # a part was overwritten

    def make(self, names: tuple[str, ...]) -> None:
        """Give new names a value. Raises ValueError when one has a value already."""
        for name in names:
            if name in self.made or name in self.given:
                raise ValueError(f"two values are called {name[:40]!r}")
            self.made.add(name)

    def get(self, name: str) -> Value:
        """The value that the graph's `name` has by now. Raises KeyError without one, ModelError when it is stale."""
        if name in self._stale:
            raise ModelError(
                f"{self.file} writes in place into a part of {name[:40]!r} and uses it again, which is not read.",
                cure="Export it again with .run_decompositions().",
            )
        latest = self._latest(name)
        if latest not in self.made and latest not in self.given:
            raise KeyError(f"nothing makes {name[:40]!r}")
        return Value(latest)

    def share(self, source: str, results: tuple[str, ...]) -> None:
        """`results` may be windows on `source`."""
        root = self._root.get(source, source)
        for result in results:
            self._root[result] = root
            self._sharing.setdefault(root, [root]).append(result)

    def overwrite(self, source: str, result: str) -> None:
        """`result` was written into the memory of `source`."""
        root = self._root.get(source, source)
        self._stale.update(name for name in self._sharing.get(root, [root]) if self._latest(name) != source)
        self._now[source] = result
        self.share(source, (result,))

    def _latest(self, name: str) -> str:
        while name in self._now:
            name = self._now[name]
        return name
