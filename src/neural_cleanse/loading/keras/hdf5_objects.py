"""The objects of an HDF5 file, read from bytes in Python alone: groups, and the messages that describe each object.

The HDF5 library is no reader for a stranger's file: a few changed bytes made its version 2.0 crash, loop for ever, or
allocate gigabytes. Keras, of all versions, writes the oldest layout, which is small: superblock 0, object headers 1,
groups as B-trees of version 1 (HDF5 File Format Specification, sections II.A, III.A, III.B, III.E, IV.A). Anything else
is refused. What is read is counted before it is kept, so that a file that names one thing a million times stays within
its budget.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import AGAIN

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_GROWTH, ALWAYS_ALLOWED = 32, 64 * 1024**2  # times the file, or bytes: whichever is more
NOWHERE = 2**64 - 1  # the address of what has none
ROOT = 64  # bytes into a file, where superblock 0 has the address of the root group's header
SOFT_LINK = 2  # kind of entry in a group
# Kinds of message in an object's header.
LINK_INFO, LINK, EXTERNAL, CONTINUATION, SYMBOL_TABLE = 0x02, 0x06, 0x07, 0x10, 0x11
CURE = "Save it again with Keras: model.save(path)."


@dataclass(frozen=True)
class Message:
    """One thing that an object's header says; `start` and `size` are of its body, in bytes of the file."""

    kind: int
    start: int
    size: int


class Objects:
    """The bytes of one file. Addresses are those of the file; every read is checked against its end."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.name = content, name
        self._left = max(ALWAYS_ALLOWED, MAX_GROWTH * len(content))
        if not content.startswith(SIGNATURE):
            self.refuse("not an HDF5 file")
        sizes, base = content[13:15], content[24:32]
        if content[8:9] != b"\0" or sizes != b"\x08\x08" or base != bytes(8):
            raise ModelError(f"{name} is an HDF5 file of a layout that Keras does not write.", cure=CURE)
        self.root = self.number(ROOT, 8)
        self._messages: dict[int, list[Message]] = {}
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}

    def refuse(self, what: str) -> NoReturn:
        """Raise the error of a damaged file."""
        raise ModelError(f"{self.name} is damaged: {what}.", cure=AGAIN)

    def spend(self, num_bytes: int) -> None:
        """Count what is about to be made of the file. Raises ModelError when it becomes too much."""
        self._left -= num_bytes
        if self._left < 0:
            raise ModelError(
                f"{self.name} declares far more than it holds: it would grow to over {MAX_GROWTH} times its size.",
                cure=AGAIN,
            )

    def bytes_at(self, start: int, size: int) -> bytes:
        """`size` bytes of the file."""
        if not 0 <= start <= start + size <= len(self.content):
            self.refuse(f"it ends before byte {start:,} + {size:,}")
        return self.content[start : start + size]

    def number(self, start: int, size: int) -> int:
        """An unsigned number of `size` bytes."""
        return int.from_bytes(self.bytes_at(start, size), "little")

    def messages(self, address: int) -> list[Message]:
        """The messages in the header of the object at `address`, its continuations among them."""
        if address not in self._messages:
            if self.number(address, 1) != 1:
                raise ModelError(f"{self.name} is an HDF5 file of a layout that Keras does not write.", cure=CURE)
            most, found = self.number(address + 2, 2), list[Message]()
            blocks = [(address + 16, self.number(address + 8, 4))]
            while blocks and len(found) < most:
                start, size = blocks.pop(0)
                for message in self._in_block(start, start + size):
                    found.append(message)
                    if message.kind == CONTINUATION:
                        blocks.append((self.number(message.start, 8), self.number(message.start + 8, 8)))
                    if len(found) == most:
                        break
            self._messages[address] = found
        return self._messages[address]

    def _in_block(self, start: int, end: int) -> Iterator[Message]:
        while start + 8 <= end:
            kind, size, flags = self.number(start, 2), self.number(start + 2, 2), self.number(start + 4, 1)
            if flags & 2:
                raise ModelError(f"{self.name} shares a part between its objects, as Keras does not.", cure=CURE)
            self.spend(8 + size)
            yield Message(kind, start + 8, size)
            start += 8 + size

    def body(self, address: int, kind: int) -> int | None:
        """Where the message of that kind begins, or None. Raises ModelError when there are two to choose from."""
        found = [message.start for message in self.messages(address) if message.kind == kind]
        if len(found) > 1:
            self.refuse(f"the object at byte {address:,} describes itself twice")
        return found[0] if found else None

    def children(self, address: int) -> dict[str, int] | None:
        """The addresses of what a group holds, by name; None when the object at `address` is no group.

        Raises ModelError for links that are not hard ones: they may lead out of the file.
        """
        table = self.body(address, SYMBOL_TABLE)
        if table is None:
            if any(message.kind in (LINK_INFO, LINK) for message in self.messages(address)):
                raise ModelError(
                    f"{self.name} keeps groups of a kind whose links may lead out of the file. They were not followed.",
                    cure=CURE,
                )
            return None
        heap = self.number(table + 8, 8)
        self._expect(b"HEAP", heap)
        names, end = self.number(heap + 24, 8), self.number(heap + 24, 8) + self.number(heap + 8, 8)
        found: dict[str, int] = {}
        for entry in self._entries(self.number(table, 8)):
            name = self._name(names + self.number(entry, 8), end)
            if self.number(entry + 16, 4) == SOFT_LINK:
                raise ModelError(
                    f"{self.name} keeps {name!r} behind a soft link, which may lead anywhere. It was not followed.",
                    cure=CURE,
                )
            if name in found:
                self.refuse(f"two entries of the name {name!r}")
            found[name] = self.number(entry + 8, 8)
        return found

    def _entries(self, tree: int) -> Iterator[int]:
        """Where the entries of a group lie: the leaves of its B-tree."""
        nodes, seen = deque([tree]), set[int]()
        while nodes:
            node = nodes.popleft()
            if node in seen:
                self.refuse("a group goes round in a circle")
            seen.add(node)
            if self.bytes_at(node, 4) == b"SNOD":
                count = self.number(node + 6, 2)
                self.spend(40 * count)
                yield from range(node + 8, node + 8 + 40 * count, 40)
                continue
            self._expect(b"TREE", node)
            count = self.number(node + 6, 2)
            self.spend(16 * count)
            nodes.extend(self.number(node + 32 + 16 * number, 8) for number in range(count))

    def _name(self, start: int, end: int) -> str:
        stop = self.content.find(b"\0", start, end)
        if stop < 0:
            self.refuse("a name without an end")
        self.spend(stop - start)
        return self.content[start:stop].decode("utf-8", "replace")

    def string(self, reference: int) -> bytes:
        """The string of variable length whose length, heap and number stand at `reference`."""
        length, heap, number = (self.number(reference + at, size) for at, size in ((0, 4), (4, 8), (12, 4)))
        if length == 0:
            return b""
        start, size = self._heap(heap).get(number, (0, 0))
        if length > size:
            self.refuse("a string longer than its place in the heap")
        self.spend(length)
        return self.bytes_at(start, length)

    def _heap(self, address: int) -> dict[int, tuple[int, int]]:
        """Start and size of every string in the heap at `address`."""
        if address not in self._heaps:
            self._expect(b"GCOL", address)
            end, place = address + self.number(address + 8, 8), address + 16
            found: dict[int, tuple[int, int]] = {}
            while place + 16 <= end and (number := self.number(place, 2)) != 0:  # 0: the rest is free
                size = self.number(place + 8, 8)
                self.spend(16)
                found[number] = place + 16, size
                place += 16 + -(-size // 8) * 8
            self._heaps[address] = found
        return self._heaps[address]

    def _expect(self, signature: bytes, address: int) -> None:
        if self.bytes_at(address, 4) != signature:
            self.refuse(f"no {signature.decode()} at byte {address:,}")
