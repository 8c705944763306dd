"""Documents that callers hand in, as dicts or JSON, made fit to be stored: one by one, or many at once."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ..documents import Column
from ..errors import DocumentError
from ..mapping import Mapping
from . import ids

MAX_DOCUMENT_BYTES = 100 << 20
"""Bytes of one document, as OpenSearch's limit on a request."""

MAX_DOCUMENT_DEPTH = 200
"""Objects and arrays within each other in a document, so that whatever walks one stays within Python's stack."""


class Batch(NamedTuple):
    """Documents that were read together: their ids, the bytes to store, and columns of what is in them."""

    keys: list[bytes]
    sources: list[bytes]
    columns: list[Column]


def decoded(doc: dict[str, Any] | bytes | str) -> tuple[bytes | None, dict[str, Any]]:
    """The bytes to store (None: to be encoded) and the document itself."""
    if isinstance(doc, dict):
        return None, doc
    if not isinstance(doc, bytes | bytearray | memoryview | str):
        raise DocumentError("not a document", found=doc, expected="a dict, or JSON as bytes or str")
    try:
        source = doc.encode() if isinstance(doc, str) else bytes(doc)
        if len(source) > MAX_DOCUMENT_BYTES:
            raise DocumentError("the document is too large", found=f"{len(source)} bytes",
                                expected=f"at most {MAX_DOCUMENT_BYTES} bytes")
        body = msgspec.json.decode(source)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise DocumentError(f"not a JSON document: {error}", found=doc, expected="one JSON object") from None
    if not isinstance(body, dict):
        raise DocumentError("a document is not an object", found=doc, expected="a JSON object")
    if source.count(b"{") + source.count(b"[") > MAX_DOCUMENT_DEPTH:
        check_depth(body)
    return source, body


def encoded(body: dict[str, Any]) -> bytes:
    """Compact JSON in key order; NaN and what JSON does not have are refused."""
    try:
        source = _ENCODER.encode(body).encode()
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise DocumentError(f"the document cannot be stored as JSON: {error}", found=body,
                            expected="JSON values: finite numbers, text that UTF-8 can hold, no cycles") from None
    if source.count(b"{") + source.count(b"[") > MAX_DOCUMENT_DEPTH:
        check_depth(body)
    if len(source) > MAX_DOCUMENT_BYTES:
        raise DocumentError("the document is too large", found=f"{len(source)} bytes",
                            expected=f"at most {MAX_DOCUMENT_BYTES} bytes")
    return source


def _as_json(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_json)


def check_depth(body: dict[str, Any]) -> None:
    open_: list[Iterator[Any]] = [iter((body,))]
    while open_:
        for item in open_[-1]:
            if isinstance(item, dict | list | tuple):
                if len(open_) > MAX_DOCUMENT_DEPTH:
                    raise DocumentError("the document is nested too deep", found=body,
                                        expected=f"at most {MAX_DOCUMENT_DEPTH} levels")
                open_.append(iter(item.values() if isinstance(item, dict) else item))
                break
        else:
            open_.pop()


def merged(old: dict[str, Any], partial: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in partial.items():
        before = old.get(key)
        result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def id_of(body: dict[str, Any], field: str | None) -> bytes:
    if field is None:
        return ids.id_bytes(new_id())
    value = body.get(field)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 8 * ids.MAX_ID_BYTES:
        value = str(value)
    if not isinstance(value, str):
        raise DocumentError("the field that holds the id has none", path=field, found=value,
                            expected="a string or an integer")
    return ids.id_bytes(value)


def new_id() -> str:
    """A random id of 26 characters (128 bits)."""
    return base64.b32encode(os.urandom(16)).decode().rstrip("=").lower()


def new_keys(count: int) -> list[bytes]:
    """Many of them, as bytes."""
    spaced = b"".join(os.urandom(16) + bytes(4) for _ in range(count))
    text = base64.b32encode(spaced).lower()
    return [text[at : at + 26] for at in range(0, 32 * count, 32)]


def read(docs: list[Any], id: str | None, mapping: Mapping) -> Batch | None:
    """Documents read all at once; None if one of them is to be seen by itself."""
    sources: list[bytes] | None = None
    bodies = docs
    kinds = set(map(type, docs))
    try:
        if kinds == {str}:
            sources = list(map(str.encode, docs))
        elif kinds == {bytes}:
            sources = docs
        if sources is not None:
            if max(map(len, sources)) > MAX_DOCUMENT_BYTES:
                return None
            bodies = list(map(_DECODE, sources))
            kinds = set(map(type, bodies))
        if kinds != {dict}:
            return None
        keys = new_keys(len(docs)) if id is None else _keys(bodies, id)
        table = None if keys is None else mapping.read_documents(bodies)
        if keys is None or table is None:
            return None
        if sources is None:
            if not table.whole:
                return None
            sources = list(map(_ENCODE, bodies))
            if max(map(len, sources)) > MAX_DOCUMENT_BYTES:
                return None
        elif not table.whole and any(
                source.count(b"{") + source.count(b"[") > MAX_DOCUMENT_DEPTH for source in sources):
            return None
    except (msgspec.DecodeError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return Batch(keys, sources, table.columns)


def _keys(bodies: list[dict[str, Any]], id: str) -> list[bytes] | None:
    values: list[Any] = [body.get(id) for body in bodies]
    kinds = set(map(type, values))
    if kinds == {int} and max(map(int.bit_length, values)) <= 64:
        values = list(map(str, values))
    elif kinds != {str}:
        return None
    keys = list(map(str.encode, values))
    sizes = set(map(len, keys))
    return keys if min(sizes) > 0 and max(sizes) <= ids.MAX_ID_BYTES else None


_DECODE = msgspec.json.Decoder().decode
_ENCODE = msgspec.json.Encoder().encode
