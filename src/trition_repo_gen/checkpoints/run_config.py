"""Read Megatron-Bridge's `run_config.yaml` as plain data: no class that it names is imported."""

from pathlib import Path
from typing import Any

import yaml

from trition_repo_gen.errors import CheckpointError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _PlainLoader(_Loader):  # type: ignore[misc]
    """A safe loader that reads a node with an unknown tag, such as `!!python/tuple`, as plain data."""


def _plain(loader: Any, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("!", _plain)
_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def load(path: Path) -> dict[str, Any]:
    """Return the file's mapping, with `_target_`, `_args_` and the like as plain entries.

    Raises:
        CheckpointError: the file is truncated or is no mapping with a `model` section.
    """
    try:
        config = yaml.load(path.read_bytes(), Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise CheckpointError(
            f"{path} is no readable YAML{where}, so the checkpoint is damaged; copy or save it again."
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path} has no model section, so the checkpoint is damaged; copy or save it again.")
    return config


def target(value: object) -> str:
    """Return the last part of the name in a `_target_` (`torch.bfloat16` → `bfloat16`), or a plain value as text."""
    if isinstance(value, dict):
        value = value.get("_target_")
    return "" if value is None else str(value).rpartition(".")[2]
