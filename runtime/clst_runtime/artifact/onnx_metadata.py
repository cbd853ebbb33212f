"""The manifest inside an ONNX file, read without the package `onnx`, which a vehicle does not have.

An ONNX file is one protobuf message. Of its fields only `metadata_props` (14) is wanted: pairs of a key (1) and a
value (2). A field begins with a number: its own number times 8 plus how it is stored (0 a number, 1 eight bytes,
2 a length and that many bytes, 5 four bytes). The bytes of all other fields, one after the other, are the file without
its metadata: what the manifest's hash is of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from clst_runtime.artifact.manifest import METADATA_KEY, Manifest
from clst_runtime.errors import ModelFileError

_METADATA_PROPS = 14
_FIXED_BYTES = {1: 8, 5: 4}
_MOST_FIELDS = 100_000
"""Of a message; a model has some tens."""


def read_onnx_manifest(path: Path) -> Manifest:
    """The manifest that clst-export wrote into an ONNX file, once the graph is the one it was written for.

    Raises:
        ModelFileError: missing, damaged, changed, or without a manifest.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}; give an ONNX file of clst-export") from error
    text, graph = "", hashlib.sha256()
    try:
        for number, whole, value in _fields(memoryview(content)):
            if number != _METADATA_PROPS:
                graph.update(whole)
                continue
            pair = {each: bytes(part) for each, _, part in _fields(value)}
            if pair[1].decode() == METADATA_KEY:
                if text:
                    raise ValueError("it has two manifests")
                text = pair[2].decode()
    except (IndexError, KeyError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged or no ONNX file ({error}); export it again") from error
    if not text:
        raise ModelFileError(f"{path} has no clst manifest; make the file with clst-export")
    manifest = Manifest.from_json(text, where=str(path))
    if manifest.model_sha256 not in (None, graph.hexdigest()):
        raise ModelFileError(
            f"{path} is damaged: SHA-256 of its graph {graph.hexdigest()[:12]}…, its manifest says "
            f"{str(manifest.model_sha256)[:12]}…; copy it again or export it again"
        )
    return manifest


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, bytes and content of each field; ValueError or IndexError where the message is cut off or none."""
    place = number = 0
    while place < len(message):
        number += 1
        if number > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")
        begin = place
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            start, (_, place) = place, _varint(message, place)
        elif kind == 2:
            length, start = _varint(message, place)
            place = start + length
        elif kind in _FIXED_BYTES:
            start, place = place, place + _FIXED_BYTES[kind]
        else:
            raise ValueError(f"field {key >> 3} is stored in an unknown way, {kind}")
        if place > len(message):
            raise ValueError(f"field {key >> 3} ends after the file")
        yield key >> 3, message[begin:place], message[start:place]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number, seven bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {place}")
