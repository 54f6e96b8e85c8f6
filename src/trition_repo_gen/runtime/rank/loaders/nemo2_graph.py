"""Read the configuration graph of a NeMo 2.0 checkpoint, `context/io.json`, and refuse one that could run code.

fiddle's `serialization.dump_json` (0.3) writes the file: a graph of objects that names classes and functions by module
and name. Loading it with fiddle imports and calls them, so that the file's author chooses what runs. Here it is read as
plain data and nothing is imported. Standard library only: builds and ranks both use it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .nemo2_names import BUILDABLES, CONTAINERS, IMPORT_PATHS, METADATA, NO_VALUE, PLAIN, Symbol, allows, is_known

IO_JSON = "io.json"
MODEL_CONFIG = ("model", "config")

_MOST_BYTES = 64 * 2**20
_UNDER_WAY = object()


class GraphError(ValueError):
    """The graph is damaged, or names something that must not run. The message is one sentence."""


@dataclass(frozen=True)
class Config:
    """A call that the graph describes: what is called, and its arguments by name.

    An argument is a plain value, a list, a dictionary, a `Symbol` or another `Config`.
    """

    target: Symbol
    arguments: Mapping[str, Any]

    def get(self, *path: str) -> Any:
        """Return an argument, or one of an argument's; None where there is none."""
        value: Any = self
        for name in path:
            value = value.arguments.get(name) if isinstance(value, Config) else None
        return value


class Graph:
    """A graph that was checked when it was read.

    Args:
        folder: the checkpoint's `context` folder.

    Raises:
        GraphError: the file is damaged, or names something that is not on the allow-list. Nothing was imported.
        OSError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / IO_JSON
        self._document = self._read()
        self._objects: dict[str, Any] = self._document["objects"]
        self._values: dict[str, Any] = {}
        for symbol in filter(None, map(_symbol, _dictionaries(self._document))):
            if not is_known(symbol):
                raise self._refused(symbol)
        self._check_buildable(self._find(MODEL_CONFIG))
        try:
            model = self._value(self._find(MODEL_CONFIG[:1]))
        except RecursionError:
            raise self._damaged("its objects are nested too deep") from None
        if not isinstance(model, Config) or not isinstance(model.get("config"), Config):
            raise self._damaged("its model has no configuration")
        self._check_import_paths(model.get("config"))
        self.model: Config = model
        """The model, its `config` among the arguments."""

    def document(self) -> dict[str, Any]:
        """Return the part that describes `model.config` as a graph of its own, for fiddle's `Deserialization`."""
        node = self._find(MODEL_CONFIG)
        objects = {key: self._objects[key] for key in self._reachable(node)}
        return {"root": node, "objects": objects, "refcounts": {}, "version": self._document.get("version")}

    def _read(self) -> dict[str, Any]:
        if self.path.stat().st_size > _MOST_BYTES:
            raise self._damaged(f"it has more than {_MOST_BYTES} bytes")
        try:
            document = json.loads(self.path.read_bytes())
        except (ValueError, RecursionError):
            raise self._damaged("it is no JSON") from None
        if not isinstance(document, dict) or not isinstance(document.get("objects"), dict):
            raise self._damaged("it has no objects")
        return document

    def _damaged(self, what: str) -> GraphError:
        return GraphError(f"{self.path} is damaged: {what}; copy or save the checkpoint again.")

    def _refused(self, symbol: Symbol) -> GraphError:
        return GraphError(
            f"{self.path} names {symbol}, which is no part of a model that NeMo saved and could run anything; "
            "it was not imported. Use a checkpoint from a source that you trust."
        )

    def _check_buildable(self, node: Any) -> None:
        """Check the part that is built later: only allowed names, in the form in which fiddle writes them."""
        for part in [node, *(self._objects[key] for key in self._reachable(node))]:
            for each in _dictionaries(part):
                if (symbol := _symbol(each)) and not allows(symbol):
                    raise self._refused(symbol)
                self._check_form(each)

    def _check_form(self, node: dict[str, Any]) -> None:
        if node.get("type") in ("ref", "pyref"):
            return
        if node.get("type") == "leaf":
            if isinstance(node.get("value"), dict | list):
                raise self._damaged("a plain value is none")
            return
        kind = _symbol(node.get("type"))
        if kind is None or not _is_list_of_items(node.get("items")):
            raise self._damaged("an object has no type or no items")
        if kind in CONTAINERS | PLAIN or kind == NO_VALUE:
            return
        if kind == METADATA:
            # fiddle calls the metadata of a named tuple to make it.
            if _symbol(node.get("metadata")) != METADATA:
                raise self._damaged("metadata is made by something else")
        elif kind not in BUILDABLES:
            # nemo-toolkit unpickles the only item of such an object.
            raise GraphError(
                f"{self.path} keeps a part of the model, {kind}, as an object or a pickle, which could run anything; "
                "save the checkpoint with a configuration that NeMo can write as JSON."
            )

    def _check_import_paths(self, config: Config) -> None:
        seen: dict[int, Any] = {}  # values may be shared any number of times
        waiting: list[Any] = [config]
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Config):
                waiting += value.arguments.values()
                for name in IMPORT_PATHS:
                    if path := value.get(name):
                        raise self._refused(Symbol(*str(path).rpartition(".")[::2]))
            elif isinstance(value, list | dict):
                waiting += value.values() if isinstance(value, dict) else value

    def _find(self, path: tuple[str, ...]) -> Any:
        """Return the node of an argument, by the names that lead to it from the root."""
        node = self._document.get("root")
        for name in path:
            names, items = self._arguments(self._follow(node))
            if name not in names:
                raise self._damaged(f"it has no {'.'.join(path)}")
            node = items[names.index(name)]
        return node

    def _follow(self, node: Any) -> Any:
        if not isinstance(node, dict) or node.get("type") != "ref":
            return node
        key = node.get("key")
        if not isinstance(key, str) or not isinstance(target := self._objects.get(key), dict):
            raise self._damaged(f"it refers to {key!r}, which is not there")
        if target.get("type") == "ref":
            raise self._damaged(f"it refers to {key!r}, which is a reference itself")
        return target

    def _reachable(self, node: Any) -> list[str]:
        found: dict[str, None] = {}
        waiting = [node]
        while waiting:
            for part in _dictionaries(waiting.pop()):
                if part.get("type") == "ref":
                    target, key = self._follow(part), part["key"]
                    if key not in found:
                        found[key] = None
                        waiting.append(target)
        return list(found)

    def _arguments(self, node: Any) -> tuple[list[str], list[Any]]:
        """Return the names and the nodes of a call's arguments, in the same order."""
        metadata = self._follow(node.get("metadata")) if isinstance(node, dict) else None
        fields = _items(metadata)
        if not isinstance(metadata, dict) or _symbol(metadata.get("type")) != METADATA or len(fields) < 2:
            raise self._damaged("an object is not the call that it should be")
        names, items = _items(self._follow(fields[1])), _items(node)
        if len(names) != len(items) or not all(isinstance(name, str) for name in names):
            raise self._damaged("a call has arguments without names")
        return names, items

    def _value(self, node: Any) -> Any:
        """Return a node's value as plain data."""
        key = node["key"] if isinstance(node, dict) and node.get("type") == "ref" else None
        target = self._follow(node)
        if key is None:
            return self._plain(target)
        if key not in self._values:
            self._values[key] = _UNDER_WAY
            self._values[key] = self._plain(target)
        if self._values[key] is _UNDER_WAY:
            raise self._damaged(f"{key!r} contains itself")
        return self._values[key]

    def _plain(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if node.get("type") == "leaf":
            return node.get("value")
        if node.get("type") == "pyref":
            return _symbol(node)
        kind, metadata = _symbol(node.get("type")), self._follow(node.get("metadata"))
        if kind == Symbol("builtins", "dict"):
            keys = [str(self._value(key)) for key in _items(metadata)]
            return dict(zip(keys, map(self._value, _items(node)), strict=False))
        if kind in CONTAINERS:
            return [self._value(item) for item in _items(node)]
        if not isinstance(metadata, dict) or _symbol(metadata.get("type")) != METADATA:
            return None  # fiddle's `NO_VALUE`, or the name of a pickle
        names, items = self._arguments(node)
        target = _symbol(self._follow(_items(metadata)[0]))
        if target is None:
            raise self._damaged("a call does not say what is called")
        return Config(target, dict(zip(names, map(self._value, items), strict=True)))


def _symbol(node: Any) -> Symbol | None:
    """Return the symbol that a JSON object names; configurations in YAML's form name it as `_target_`."""
    match node:
        case {"module": module, "name": name}:
            return Symbol(str(module), str(name))
        case {"_target_": target}:
            return Symbol(*str(target).rpartition(".")[::2])
        case {"module": _} | {"type": "pyref"}:
            return Symbol("?", "?")
    return None


def _is_list_of_items(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, list) and len(item) == 2 for item in items)


def _items(node: Any) -> list[Any]:
    """Return an object's values, without the paths that stand before each of them."""
    items = node.get("items") if isinstance(node, dict) else None
    return [item[1] for item in items] if _is_list_of_items(items) and items else []


def _dictionaries(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in `node`, itself included, but not those that it refers to by key."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
