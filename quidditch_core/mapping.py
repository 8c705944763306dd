"""A mapping: which fields documents have, of what type, and how a document is read by it.

``Mapping`` is immutable; ``merge`` (put_mapping) and ``parse_document`` (dynamic mapping) answer with another
one. Its dict form is OpenSearch's. Pure data: no I/O, no analysis; analyzers are names here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from quidditch_core import documents
from quidditch_core.dates import BadFormat, date_format
from quidditch_core.documents import NewField, Values
from quidditch_core.errors import DocumentError, MappingError, RequestError, UnsupportedError, nearest
from quidditch_core.fields import (
    FIELD_TYPES,
    FLOAT_TYPES,
    INTEGER_RANGES,
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_NAME_BYTES,
    BadValue,
    Dynamic,
    FieldType,
    Node,
    ObjectField,
    join,
    name_problem,
)

__all__ = ["ANALYZERS", "BadValue", "FieldType", "Mapping", "ObjectField", "ParsedDocument"]

ANALYZERS: Final = ("english", "keyword", "simple", "standard", "whitespace")


class ParsedDocument(NamedTuple):
    """What one document holds: native values by full field path, and the mapping that has all its fields."""

    values: Values
    mapping: Mapping


class Mapping:
    """The fields of an index.

    ``fields`` maps full paths, multi-fields included ("title.keyword"), to their ``FieldType``; ``objects``
    are the full paths of objects. Two mappings are equal if their fields are; they have no hash.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, root: ObjectField | None = None, *, date_detection: bool = True) -> None:
        self.root: Final = root or ObjectField()
        self.date_detection: Final = date_detection
        nodes = list(self.root.walk())
        if len(nodes) > MAX_FIELDS:
            raise MappingError("the mapping has too many fields", path="properties", found=len(nodes),
                               expected=f"at most {MAX_FIELDS} fields, multi-fields and objects",
                               fix='set "dynamic": false on objects whose keys are data')
        self.fields: Final[Dict[str, FieldType]] = MappingProxyType(
            {node.name: node for node in nodes if isinstance(node, FieldType)}
        )
        self.objects: Final = frozenset(node.name for node in nodes if isinstance(node, ObjectField))
        self._parser: documents.Parser | None = None
        self._reader: documents.Reader | None = None

    @property
    def dynamic(self) -> Dynamic:
        """What a document's unknown field does at the top level: it is added, ignored, or refused."""
        return self.root.dynamic or "true"

    @classmethod
    def from_dict(cls, body: Dict[str, Any]) -> Mapping:
        """Read ``{"properties": {...}, "dynamic": ...}``, bare or under ``"mappings"``.

        MappingError with the JSON path of what is wrong; UnsupportedError for what OpenSearch has and this
        version does not.
        """
        wrapped = isinstance(body, Dict) and "mappings" in body
        if wrapped and len(body) > 1:
            other = next(key for key in body if key != "mappings")
            raise MappingError('nothing may stand next to "mappings"', path="mappings", found=other,
                               fix="pass settings apart from the mapping")
        path = "mappings" if wrapped else ""
        inner = _dict(body["mappings"] if wrapped else body, path or "mapping")
        for key in inner:
            if key not in _ROOT_KEYS and key not in _ROOT_FIXED:
                if key in _ROOT_LATER:
                    raise _unsupported(f"{key!r} in a mapping", join(path, key), _ROOT_KEYS)
                fix = 'put fields under "properties"' if isinstance(inner[key], Dict) else None
                raise MappingError("unknown key of a mapping", path=_at(path, key), found=key,
                                   fix=fix or nearest(key, _ROOT_KEYS))
        _check_fixed(inner, _ROOT_FIXED, path)
        detection = inner.get("date_detection", True)
        root = _object({key: value for key, value in inner.items() if key in _OBJECT_KEYS}, "", path, 0)
        return cls(root, date_detection=_boolean(detection, join(path, "date_detection")))

    def to_dict(self) -> dict[str, Any]:
        """OpenSearch's form, defaults left out; ``from_dict`` of it is an equal mapping."""
        head: dict[str, Any] = {} if self.date_detection else {"date_detection": False}
        return head | _object_to_dict(self.root)

    def merge(self, update: Dict[str, Any] | Mapping) -> Mapping:
        """This mapping with an update's fields and changes; itself if there are none.

        Fields may be added; of an existing one ``ignore_above``, ``null_value``, ``coerce`` and
        ``search_analyzer`` may change, of an object ``dynamic``. A field in the update stands for the whole
        field: what it does not say is the default. MappingError for any other change.
        """
        other = update if isinstance(update, Mapping) else Mapping.from_dict(update)
        said = isinstance(update, Mapping) or "date_detection" in update.get("mappings", update)
        merged = Mapping(
            _merge_objects(self.root, other.root, ""),
            date_detection=other.date_detection if said else self.date_detection,
        )
        return self if merged == self else merged

    def parse_document(self, doc: Dict[str, Any]) -> ParsedDocument:
        """Read one document: the native values of its fields, and this mapping or, if it is dynamic and the
        document has new fields, the one with them. DocumentError names the field and what it takes."""
        values: Values = {}
        parser = self._parser
        if parser is None:
            parser = self._parser = documents.compile_parser(self.root)
        try:
            parser(doc, values)
        except NewField:
            return self._grown_by(doc).parse_document(doc)
        return ParsedDocument(values, self)

    def read_documents(self, docs: Sequence[dict[str, Any]]) -> documents.Table | None:
        """What ``parse_document`` finds in each of many documents, as columns; None if one of them has a new field, a
        value that does not fit, or anything else that is better seen to one by one."""
        reader = self._reader
        if reader is None:
            reader = self._reader = documents.compile_reader(self.root)
        return reader(docs)

    def _grown_by(self, doc: Dict[str, Any]) -> Mapping:
        added = documents.discover(doc, self.root, date_detection=self.date_detection)
        try:
            return self.merge({"properties": added})
        except MappingError as error:
            raise DocumentError(
                f"the fields of this document cannot be added: {error.message}", found=error.found,
                expected=error.expected, fix=error.fix,
            ) from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.root == other.root and self.date_detection == other.date_detection

    def __repr__(self) -> str:
        return f"Mapping.from_dict({self.to_dict()!r})"


# Parameters of fields ---------------------------------------------------------------------------------------

Check = Callable[[Any, str], Any]
"""(value, JSON path) -> the value to keep, or MappingError."""


def _dict(value: Any, path: str) -> Dict[str, Any]:
    if not isinstance(value, Dict):
        raise MappingError("this is not an object", path=path, found=value, expected="an object (a dict)")
    for key in value:
        if not isinstance(key, str):
            raise MappingError("a key is not a string", path=path, found=key, expected="a string")
    return value


def _at(path: str, key: str) -> str:
    """The JSON path of a key that may be anything, fit for a message."""
    return join(path, key[:MAX_NAME_BYTES].encode("utf-8", "backslashreplace").decode())


def _boolean(value: Any, path: str) -> bool:
    if value is True or value is False:
        return value
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    raise MappingError("this is not a boolean", path=path, found=value, expected="true or false")


def _natural(value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    raise MappingError("this is not a size", path=path, found=value, expected="an integer from 0 to 2^31 - 1")


def _analyzer(value: Any, path: str) -> str:
    if isinstance(value, str):
        if value in ANALYZERS:
            return value
        if value in _ANALYZERS_LATER:
            raise _unsupported(f"the analyzer {value!r}", path, ANALYZERS)
        raise MappingError("unknown analyzer", path=path, found=value, fix=nearest(value, ANALYZERS))
    raise MappingError("this is not the name of an analyzer", path=path, found=value,
                       expected="one of " + ", ".join(ANALYZERS))


def _format(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise MappingError("this is not a date format", path=path, found=value, expected="a string")
    try:
        date_format(value)
    except BadFormat as error:
        if error.known:
            raise UnsupportedError(f"the date format {error.part!r} is not supported by this version",
                                   path=path, fix=error.fix) from None
        raise MappingError("unknown date format", path=path, found=error.part, fix=error.fix) from None
    return value


def _scalar(value: Any, path: str) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    raise MappingError("this is not a value", path=path, found=value, expected="a string, number or boolean")


_COLUMNAR: Final[dict[str, Check]] = {"index": _boolean, "doc_values": _boolean, "null_value": _scalar}
_TEXT: Final[dict[str, Check]] = {
    "index": _boolean, "analyzer": _analyzer, "search_analyzer": _analyzer, "norms": _boolean,
    "position_increment_gap": _natural,
}
_KEYWORD: Final[dict[str, Check]] = {**_COLUMNAR, "ignore_above": _natural}
_NUMBER: Final[dict[str, Check]] = {**_COLUMNAR, "coerce": _boolean}
_PARAMETERS: Final[dict[str, dict[str, Check]]] = {
    "text": _TEXT,
    "keyword": _KEYWORD,
    "boolean": _COLUMNAR,
    "date": {**_COLUMNAR, "format": _format},
    **dict.fromkeys((*INTEGER_RANGES, *FLOAT_TYPES), _NUMBER),
}
_MUTABLE: Final = frozenset({"ignore_above", "search_analyzer", "null_value", "coerce"})

# What a parameter may say because it is so anyway; any other value belongs to a later version.
_JSON: Final = (type(None), bool, int, float, str, list, dict)  # nothing whose comparison may raise
_OFF: Final = (False, "false")
_FIXED: Final[dict[str, tuple[Any, ...]]] = {
    "boost": (1,), "copy_to": ([],), "ignore_malformed": _OFF, "meta": ({},), "store": _OFF,
}
_FIXED_TERMS: Final[dict[str, tuple[Any, ...]]] = {
    "eager_global_ordinals": _OFF, "similarity": ("BM25", "default", None),
}
_FIXED_OF: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "text": {
        **_FIXED_TERMS, "fielddata": _OFF, "fielddata_frequency_filter": (), "index_options": ("positions",),
        "index_phrases": _OFF, "index_prefixes": (None,), "search_quote_analyzer": (), "term_vector": ("no",),
    },
    "keyword": {
        **_FIXED_TERMS, "index_options": ("docs",), "normalizer": (None,), "norms": _OFF,
        "split_queries_on_whitespace": _OFF,
    },
    "date": {"locale": ("", "ROOT")},
}
_TYPES_LATER: Final = frozenset(
    {
        "alias", "binary", "completion", "constant_keyword", "date_nanos", "date_range", "dense_vector",
        "derived", "double_range", "flat_object", "float_range", "geo_point", "geo_shape", "half_float",
        "integer_range", "ip", "ip_range", "join", "knn_vector", "long_range", "match_only_text", "murmur3",
        "nested", "percolator", "rank_feature", "rank_features", "scaled_float", "search_as_you_type",
        "semantic", "token_count", "unsigned_long", "version", "wildcard", "xy_point", "xy_shape",
    }
)
_ANALYZERS_LATER: Final = frozenset(
    {
        "arabic", "armenian", "basque", "bengali", "brazilian", "bulgarian", "catalan", "cjk", "czech",
        "danish", "dutch", "estonian", "fingerprint", "finnish", "french", "galician", "german", "greek",
        "hindi", "hungarian", "icu_analyzer", "indonesian", "irish", "italian", "kuromoji", "latvian",
        "lithuanian", "nori", "norwegian", "pattern", "persian", "portuguese", "romanian", "russian",
        "smartcn", "snowball", "sorani", "spanish", "stop", "swedish", "thai", "turkish", "ukrainian",
    }
)
_OBJECT_KEYS: Final = ("properties", "dynamic", "enabled")
_ROOT_KEYS: Final = (*_OBJECT_KEYS, "date_detection")
_ROOT_FIXED: Final[dict[str, tuple[Any, ...]]] = {
    "_source": ({}, {"enabled": True}), "_routing": ({}, {"required": False}), "numeric_detection": (False,),
    "dynamic_templates": ([],),
}
_ROOT_LATER: Final = frozenset({"_meta", "_field_names", "_size", "derived", "dynamic_date_formats"})


def _unsupported(what: str, path: str, supported: Any) -> UnsupportedError:
    return UnsupportedError(f"{what} is not supported by this version", path=path,
                            fix="supported: " + ", ".join(supported))


def _check_fixed(spec: Dict[str, Any], fixed: Dict[str, tuple[Any, ...]], path: str) -> None:
    for key, allowed in fixed.items():
        if key in spec and not (isinstance(spec[key], _JSON) and spec[key] in allowed):
            raise UnsupportedError(
                f"{key!r} other than its default is not supported by this version", path=join(path, key),
                found=spec[key], fix="leave it out",
            )


# Dict -> nodes ----------------------------------------------------------------------------------------------


def _object(spec: Dict[str, Any], name: str, path: str, depth: int) -> ObjectField:
    if depth > MAX_DEPTH:
        raise MappingError(f"objects are nested more than {MAX_DEPTH} deep", path=path)
    for key in spec:
        if key not in (*_OBJECT_KEYS, "type"):
            raise MappingError("unknown parameter of an object", path=_at(path, key), found=key,
                               fix=nearest(key, _OBJECT_KEYS))
    where = join(path, "properties")
    properties: dict[str, Node] = {}
    for key, value in _dict(spec.get("properties", {}), where).items():
        _add(properties, key, value, name, _at(where, key), depth)
    return ObjectField(
        name, properties, _dynamic(spec.get("dynamic"), join(path, "dynamic")),
        _boolean(spec.get("enabled", True), join(path, "enabled")),
    )


def _add(
    properties: dict[str, Node], key: str, spec: Any, parent: str, path: str, depth: int
) -> None:
    """Put one entry of ``properties`` in its place: "a.b" is the field b of the object a."""
    own, dot, rest = key.partition(".")
    problem = name_problem(own, parent)
    if problem is not None:
        raise MappingError(problem, path=path, found=key, fix="rename the field")
    name = join(parent, own)
    node: Node
    if dot:
        if depth >= MAX_DEPTH:
            raise MappingError(f"objects are nested more than {MAX_DEPTH} deep", path=path)
        inner: dict[str, Node] = {}
        _add(inner, rest, spec, name, path, depth + 1)
        node = ObjectField(name, inner)
    else:
        node = _node(_dict(spec, path), name, path, depth)
    properties[own] = _merge_nodes(properties[own], node, path) if own in properties else node


def _node(spec: Dict[str, Any], name: str, path: str, depth: int) -> Node:
    kind = spec.get("type")
    if kind is None and any(key in spec for key in _OBJECT_KEYS):
        kind = "object"
    if isinstance(kind, str) and kind == "object":
        return _object(spec, name, path, depth + 1)
    return _leaf(kind, spec, name, path, multi=False)


def _leaf(kind: Any, spec: Dict[str, Any], name: str, path: str, *, multi: bool) -> FieldType:
    where = join(path, "type")
    types = sorted(FIELD_TYPES if multi else {*FIELD_TYPES, "object"})
    if kind is None:
        raise MappingError("the field has no type", path=where, expected="one of " + ", ".join(types))
    if not isinstance(kind, str) or kind not in FIELD_TYPES:
        if isinstance(kind, str) and kind in _TYPES_LATER:
            raise _unsupported(f"the field type {kind!r}", where, types)
        fix = nearest(kind if isinstance(kind, str) else "", types)
        raise MappingError("unknown field type", path=where, found=kind, fix=fix)
    checks = _PARAMETERS[kind]
    fixed = {**_FIXED, **_FIXED_OF.get(kind, {})}
    parameters: dict[str, Any] = {}
    for key, value in spec.items():
        if key in checks:
            parameters[key] = checks[key](value, join(path, key))
        elif key == "fields":
            parameters[key] = _multi_fields(value, name, join(path, key), multi)
        elif key != "type" and key not in fixed:
            raise MappingError(f"unknown parameter of a {kind} field", path=_at(path, key), found=key,
                               fix=nearest(key, {*checks, "fields"}))
    _check_fixed(spec, fixed, path)
    field = FieldType(name, kind, **parameters)
    if field.null_value is not None:
        try:
            documents.converter(field)
        except BadValue as error:
            raise MappingError("the null_value does not fit the type", path=join(path, "null_value"),
                               found=field.null_value, expected=error.expected) from None
    return field


def _multi_fields(spec: Any, parent: str, path: str, multi: bool) -> tuple[FieldType, ...]:
    if multi:
        raise MappingError("a multi-field cannot have multi-fields", path=path, fix="put it beside the other")
    leaves = []
    for key, value in _dict(spec, path).items():
        where = _at(path, key)
        problem = name_problem(key, parent) or ("it contains a dot" if "." in key else None)
        if problem is not None:
            raise MappingError(f"this cannot name a multi-field: {problem}", path=where, found=key)
        inner = _dict(value, where)
        leaves.append(_leaf(inner.get("type"), inner, join(parent, key), where, multi=True))
    return tuple(leaves)


def _dynamic(value: Any, path: str) -> Dynamic | None:
    match value if isinstance(value, str | bool | None) else ...:
        case None:
            return None
        case True | "true":
            return "true"
        case False | "false":
            return "false"
        case "strict":
            return "strict"
        case "strict_allow_templates" | "false_allow_templates" | "runtime":
            raise _unsupported(f'"dynamic": "{value}"', path, ("true", "false", "strict"))
    raise MappingError("unknown value of dynamic", path=path, found=value, expected='true, false or "strict"')


# Nodes -> dict ----------------------------------------------------------------------------------------------


def _object_to_dict(node: ObjectField) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if node.dynamic is not None:
        spec["dynamic"] = node.dynamic
    if not node.enabled:
        spec["enabled"] = False
    if node.properties:
        spec["properties"] = {own: _node_to_dict(child) for own, child in node.properties.items()}
    return spec


def _node_to_dict(node: Node) -> dict[str, Any]:
    if isinstance(node, ObjectField):
        head: dict[str, Any] = {} if node.properties else {"type": "object"}
        return head | _object_to_dict(node)
    plain = msgspec.structs.replace(FieldType(node.name, node.type), search_analyzer=node.analyzer)
    spec: dict[str, Any] = {"type": node.type}
    for key in _PARAMETERS[node.type]:
        if getattr(node, key) != getattr(plain, key):
            spec[key] = getattr(node, key)
    if node.fields:
        spec["fields"] = {other.name.rpartition(".")[2]: _node_to_dict(other) for other in node.fields}
    return spec


# Nodes + nodes ----------------------------------------------------------------------------------------------


def _merge_objects(old: ObjectField, new: ObjectField, path: str) -> ObjectField:
    if not new.enabled and old.enabled and old.properties:
        raise _conflict("enabled", join(path, "enabled"), True, False)
    properties = dict(old.properties)
    for own, node in new.properties.items():
        where = join(join(path, "properties"), own)
        properties[own] = _merge_nodes(properties[own], node, where) if own in properties else node
    return ObjectField(old.name, properties, new.dynamic or old.dynamic, old.enabled and new.enabled)


def _merge_nodes(old: Node, new: Node, path: str) -> Node:
    if isinstance(old, ObjectField) and isinstance(new, ObjectField):
        return _merge_objects(old, new, path)
    if isinstance(old, FieldType) and isinstance(new, FieldType):
        return _merge_leaves(old, new, path)
    before, after = (node.type if isinstance(node, FieldType) else "object" for node in (old, new))
    raise _conflict("type", join(path, "type"), before, after)


def _merge_leaves(old: FieldType, new: FieldType, path: str) -> FieldType:
    if old.type != new.type:
        raise _conflict("type", join(path, "type"), old.type, new.type)
    for key in _PARAMETERS[old.type]:
        if key not in _MUTABLE and getattr(old, key) != getattr(new, key):
            raise _conflict(key, join(path, key), getattr(old, key), getattr(new, key))
    fields = {field.name: field for field in old.fields}
    for field in new.fields:
        where = join(join(path, "fields"), field.name.rpartition(".")[2])
        known = fields.get(field.name)
        fields[field.name] = field if known is None else _merge_leaves(known, field, where)
    return msgspec.structs.replace(new, fields=tuple(fields.values()))


def _conflict(what: str, path: str, before: Any, after: Any) -> RequestError:
    return MappingError(f"the {what} of an existing field cannot change", path=path, found=after,
                        expected=f"{before!r}, as it is", fix="reindex into a new index to change it")
