"""The directory of a zip archive, checked before anybody unpacks: two programs must read the same from it.

Zip readers differ in where they look for the directory and in what they believe of it. An archive is refused unless it
begins with its first entry, ends with its one directory, and declares no more than it can hold.
"""

import io
import struct
import zipfile

from neural_cleanse.errors import ModelError, UnknownFormat
from neural_cleanse.loading.cures import AGAIN

MAX_ENTRIES = 100_000  # a network has an entry a tensor
MAX_GROWTH = 10  # times the file, unpacked: formats of weights store them as they are
ENTRY, END, END64, LOCATOR64 = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _LOCATOR_SIZE, _END64_SIZE = 22, 20, 56
_ENCRYPTED = 0x1


def is_zip(content: bytes) -> bool:
    """It begins with an entry."""
    return content.startswith(b"PK\x03\x04")


def entries(content: bytes, name: str) -> dict[str, zipfile.ZipInfo]:
    """What the archive holds, by name. Raises UnknownFormat when it is damaged, ModelError when it is a trap."""
    if content.count(ENTRY) > MAX_ENTRIES:
        raise ModelError(
            f"{name} is a zip archive of more than {MAX_ENTRIES:,} entries: no model has so many.", cure=AGAIN
        )
    if not _ends_with_directory(content):
        raise UnknownFormat(f"{name} is a damaged zip archive: it does not end with its directory.", cure=AGAIN)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error, OSError) as error:
        raise UnknownFormat(f"{name} is a damaged zip archive: {error}.", cure=AGAIN) from error
    named = {info.filename: info for info in found}
    if not found or len(named) != len(found):
        raise ModelError(
            f"{name} is a zip archive {'with two entries of one name' if found else 'without entries'}.", cure=AGAIN
        )
    if min(info.header_offset for info in found) != 0:
        raise ModelError(f"{name} is a zip archive with something before its first entry.", cure=AGAIN)
    for info in found:
        unpacked = info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size
        if unpacked or info.header_offset + info.compress_size > len(content):
            raise ModelError(
                f"{name} is a zip archive whose entry {info.filename!r} declares more than it holds.", cure=AGAIN
            )
        if info.flag_bits & _ENCRYPTED:
            raise ModelError(
                f"{name} is an encrypted zip archive.", cure="Unpack it, or ask its author for a plain one."
            )
    declared = sum(info.file_size for info in found)
    if declared > MAX_GROWTH * len(content):
        raise ModelError(
            f"{name} is a zip archive of {len(content):,} bytes that unpacks to {declared:,}: a zip bomb.",
            cure=f"Models unpack to less than {MAX_GROWTH} times their size; save it again without compression.",
        )
    return named


def _ends_with_directory(content: bytes) -> bool:
    """One end record, without a comment, and before it the 64-bit record where its locator says."""
    end = content[-_END_SIZE:]
    if len(end) < _END_SIZE or not end.startswith(END) or end[-2:] != b"\0\0":
        return False
    locator = content[-_END_SIZE - _LOCATOR_SIZE : -_END_SIZE]
    if not locator.startswith(LOCATOR64):
        return True
    place = len(content) - _END_SIZE - _LOCATOR_SIZE - _END64_SIZE
    return int.from_bytes(locator[8:16], "little") == place and content[place : place + 4] == END64
