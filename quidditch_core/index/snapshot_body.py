"""OpenSearch's bodies about snapshots, as far as they say something to one index in a process.

What cannot be done here is refused, with the reason; it is never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from ..errors import NotFoundError, SettingsError, UnsupportedError, nearest

_CREDENTIALS: Final = "credentials do not belong into a body: give storage_options, or set the environment"
_UNSUPPORTED: Final = {
    "include_global_state": "an index in a process has no cluster state: a cluster keeps its own",
    "partial": "an index is kept whole or not at all",
    "metadata": "nothing is kept beside the index",
    "rename_pattern": "the directory that is restored to is the name of the new index",
    "rename_replacement": "the directory that is restored to is the name of the new index",
    "rename_alias_pattern": "an index in a process has no aliases",
    "rename_alias_replacement": "an index in a process has no aliases",
    "index_settings": "change settings with put_settings after restoring",
    "ignore_index_settings": "change settings with put_settings after restoring",
    "max_snapshot_bytes_per_sec": "nothing is slowed down",
    "max_restore_bytes_per_sec": "nothing is slowed down",
    "server_side_encryption": 'give {"s3_additional_kwargs": {"ServerSideEncryption": ...}} as storage_options',
    "storage_class": 'give {"s3_additional_kwargs": {"StorageClass": ...}} as storage_options',
    "canned_acl": 'give {"s3_additional_kwargs": {"ACL": ...}} as storage_options',
    "access_key": _CREDENTIALS,
    "secret_key": _CREDENTIALS,
    "session_token": _CREDENTIALS,
}
_KINDS: Final = {"s3": {"bucket", "region", "endpoint"}, "fs": {"location"}}
_COMMON: Final = {"base_path", "chunk_size", "compress", "readonly"}
_SNAPSHOT: Final = {"indices", "ignore_unavailable", "include_global_state", "partial", "metadata"}
_RESTORE: Final = {"indices", "ignore_unavailable", "include_global_state", "partial", "include_aliases",
                   "storage_type", "rename_pattern", "rename_replacement", "rename_alias_pattern",
                   "rename_alias_replacement", "index_settings", "ignore_index_settings"}


def repository(body: Mapping[str, Any], storage_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a `Repository` that the body of ``PUT _snapshot/NAME`` registers."""
    _known(body, {"type", "settings", "verify"}, "")
    kind, settings = body.get("type"), body.get("settings", {})
    if kind not in _KINDS:
        raise UnsupportedError("no such kind of repository", path="type", found=kind,
                               expected="one of " + ", ".join(_KINDS),
                               fix="any other place has a URL of fsspec: Repository(url)")
    if not isinstance(settings, Mapping):
        raise SettingsError("settings are not an object", path="settings", found=settings, expected="a dict")
    _known(settings, _KINDS[kind] | _COMMON, "settings.")
    options = dict(storage_options or {})
    if kind == "fs":
        url = _text(settings, "location", needed=True)
    else:
        url = f"s3://{_text(settings, 'bucket', needed=True)}"
        if region := _text(settings, "region"):
            options["client_kwargs"] = {"region_name": region, **options.get("client_kwargs", {})}
        if endpoint := _text(settings, "endpoint"):
            options.setdefault("endpoint_url", endpoint)
    flags = {name: _flag(settings, name, "settings.", default=name == "compress") for name in ("compress", "readonly")}
    return {"url": url, "storage_options": options, "base_path": _text(settings, "base_path"),
            "chunk_size": settings.get("chunk_size"), **flags}


def check_snapshot(body: Mapping[str, Any] | None, index: str) -> None:
    """The body of a snapshot of an index of this name."""
    _check(body, _SNAPSHOT, index)


def check_restore(body: Mapping[str, Any] | None, index: str) -> None:
    """The body of a restore of a snapshot of an index of this name."""
    _check(body, _RESTORE, index)
    if body and body.get("storage_type", "local") != "local":
        raise UnsupportedError("restore makes an index of its own", path="storage_type", found=body["storage_type"],
                               expected="'local'", fix='search it where it is: open("URL#name", read_only=True)')


def _check(body: Mapping[str, Any] | None, known: set[str], index: str) -> None:
    if body is None:
        return
    _known(body, known, "")
    for name in ("ignore_unavailable", "include_aliases"):
        _flag(body, name, "", default=False)
    asked = body.get("indices", "*")
    patterns = asked.split(",") if isinstance(asked, str) else asked
    if not isinstance(patterns, list | tuple) or not all(isinstance(one, str) for one in patterns):
        raise SettingsError("not names of indexes", path="indices", found=asked,
                            expected="names or patterns, in a list or joined by commas")
    chosen = False
    for pattern in (one.strip() for one in patterns):
        if pattern.startswith("-"):
            chosen = chosen and not fnmatchcase(index, pattern[1:])
        elif pattern == "_all" or fnmatchcase(index, pattern):
            chosen = True
        elif not ({"*", "?"} & set(pattern)) and not body.get("ignore_unavailable", False):
            raise NotFoundError("no such index here", path="indices", found=pattern, expected=index,
                                fix="leave it out, or say ignore_unavailable")
    if not chosen:
        raise NotFoundError("the body leaves this index out", path="indices", found=asked, expected=index,
                            fix="name it, or leave indices away")


def _known(body: Any, known: set[str], where: str) -> None:
    if not isinstance(body, Mapping):
        raise SettingsError("not a body", path=where.rstrip(".") or "body", found=body, expected="a dict")
    for name, value in body.items():
        # What says that something is not wanted which is not there asks for nothing.
        if name in _UNSUPPORTED and not (name in known and value in (False, "false")):
            if "key" in name or "token" in name:
                raise SettingsError("a secret in a body", path=f"{where}{name}", fix=_UNSUPPORTED[name])
            raise UnsupportedError("this cannot be done", path=f"{where}{name}", found=value, fix=_UNSUPPORTED[name])
        if name not in known:
            raise SettingsError("unknown setting", path=f"{where}{name}", fix=nearest(str(name), known))


def _text(settings: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = settings.get(name, "")
    if not isinstance(value, str) or (needed and not value.strip()):
        raise SettingsError("not a text" if value or not needed else "missing", path=f"settings.{name}", found=value,
                            expected="a text")
    return value


def _flag(body: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    value = body.get(name, default)
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise SettingsError("not yes or no", path=f"{where}{name}", found=value, expected="true or false")
    return value
