"""What callers hand in, made fit to be stored: documents from dicts or JSON, their ids, and the batches of a bulk."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ..errors import DocumentError, RequestError
from ..result import BulkFailure
from . import ids

BATCH = 512
"""Documents of a bulk whose ids are looked up together."""

BATCH_BYTES = 8 << 20
"""JSON of a bulk that is read before it is written."""

MAX_DOCUMENT_BYTES = 100 << 20
"""Bytes of one document, as OpenSearch's limit on a request."""

MAX_DOCUMENT_DEPTH = 200
"""Objects and arrays within each other in a document, so that whatever walks one stays within Python's stack."""


class Item(NamedTuple):
    """One document of a bulk: where it stood, its id, its JSON (None: to be encoded) and itself."""

    position: int
    key: bytes
    source: bytes | None
    body: dict[str, Any]


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


def batches(docs: Iterable[Any], id: str | None, failed: list[BulkFailure]) -> Iterator[list[Item]]:
    """The documents in runs of bounded size; those that are none go to ``failed``."""
    batch: list[Item] = []
    size = 0
    for position, doc in enumerate(docs):
        try:
            source, body = decoded(doc)
            batch.append(Item(position, id_of(body, id), source, body))
        except RequestError as error:
            failed.append(BulkFailure(position, None, error))
            continue
        size += 0 if source is None else len(source)
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def shown(docs: Iterable[Any], progress: bool) -> Iterable[Any]:
    """``docs``, with a bar on stderr while they pass if that is wanted: tqdm's where it is installed."""
    if not progress:
        return docs
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:
        return _counted(docs)
    bar: Iterable[Any] = tqdm(docs, unit=" docs", desc="indexing")
    return bar


def _counted(docs: Iterable[Any]) -> Iterator[Any]:
    started = time.perf_counter()
    number = 0
    for number, doc in enumerate(docs, 1):
        yield doc
        if number % 1000 == 0:
            rate = number / (time.perf_counter() - started)
            print(f"\rindexing: {number:,} documents, {rate:,.0f}/s", end="", file=sys.stderr, flush=True)
    print(f"\rindexing: {number:,} documents in {time.perf_counter() - started:.1f} s", file=sys.stderr)
