"""NeMo 2.0 checkpoints without weights in them: `context/io.json` as fiddle's `dump_json` (0.3) writes it."""

import json
from pathlib import Path
from typing import Any

from tests.files import FileTree, build_file_tree, torch_index

Json = dict[str, Any]

MODEL = "nemo.collections.vlm.qwen2vl.model.base.Qwen2VLModel"
CONFIG = "nemo.collections.vlm.qwen2vl.model.base.Qwen2VLConfig"
LANGUAGE = "nemo.collections.llm.gpt.model.qwen2.Qwen2Config"
VISION = "nemo.collections.vlm.qwen2vl.model.base.Qwen25VLVisionConfig"
PROJECTION = "nemo.collections.vlm.vision.base.MultimodalProjectorConfig"


class Name:
    """A class or function in a graph, written `module.name`; `module:name` where the name has dots."""

    def __init__(self, path: str) -> None:
        self.module, _, self.name = path.partition(":") if ":" in path else path.rpartition(".")


class Call:
    """A `fiddle.Config` (with `partial` a `Partial`) of `target`."""

    def __init__(self, target: str, /, partial: bool = False, **arguments: Any) -> None:
        self.target, self.partial, self.arguments = target, partial, arguments


class Pickled:
    """An object that nemo could not write as JSON, and keeps in a file of the context."""

    def __init__(self, kind: str, file: str) -> None:
        self.kind, self.file = kind, file


class _Writer:
    def __init__(self) -> None:
        self.objects: Json = {}

    def node(self, value: Any) -> Any:
        match value:
            case Name():
                return _pyref(value)
            case Call():
                kind = "fiddle._src.partial.Partial" if value.partial else "fiddle._src.config.Config"
                fields = [
                    ["Attr(name='fn_or_cls')", _pyref(Name(value.target))],
                    ["Attr(name='argument_names')", self._object("builtins.tuple", list(value.arguments))],
                    ["Attr(name='argument_tags')", self._empty()],
                    ["Attr(name='argument_history')", self._empty()],
                ]
                names = "fiddle._src.config.BuildableTraverserMetadata"
                metadata = self._add({"type": _pyref(Name(names)), "items": fields, "metadata": _pyref(Name(names))})
                items = [[f"Attr(name={name!r})", self.node(each)] for name, each in value.arguments.items()]
                return self._add({"type": _pyref(Name(kind)), "items": items, "metadata": metadata, "paths": []})
            case Pickled():
                items = [["", {"type": "leaf", "value": value.file, "paths": []}]]
                return self._add({"type": _pyref(Name(value.kind)), "items": items, "metadata": None})
            case list():
                return self._object("builtins.list", value, leaf=True)
            case dict():
                keys = self._object("builtins.tuple", list(value))
                items = [[f"Key(key={key!r})", self.node(each)] for key, each in value.items()]
                return self._add({"type": _pyref(Name("builtins.dict")), "items": items, "metadata": keys})
        return {"type": "leaf", "value": value, "paths": []}

    def _object(self, kind: str, values: list[Any], *, leaf: bool = False) -> Json:
        items = [[f"Index(index={i})", self.node(each) if leaf else each] for i, each in enumerate(values)]
        return self._add({"type": _pyref(Name(kind)), "items": items, "metadata": None})

    def _empty(self) -> Json:
        none: Json = {"type": _pyref(Name("builtins.tuple")), "items": [], "metadata": None}
        return self._add({"type": _pyref(Name("builtins.dict")), "items": [], "metadata": none})

    def _add(self, node: Json) -> Json:
        key = f"object_{len(self.objects)}"
        self.objects[key] = node
        return {"type": "ref", "key": key}


def _pyref(name: Name) -> Json:
    return {"type": "pyref", "module": name.module, "name": name.name}


def document(root: Any) -> Json:
    """Return what `dump_json` writes for a value."""
    writer = _Writer()
    return {"root": writer.node(root), "objects": writer.objects, "refcounts": {}, "version": "0.0.1"}


def language(target: str = LANGUAGE, **changes: Any) -> Call:
    """Return the configuration of a tiny Qwen2."""
    sizes: Json = {
        "num_layers": 4,
        "hidden_size": 512,
        "ffn_hidden_size": 1024,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "vocab_size": 512,
        "seq_length": 2048,
        "init_method_std": 0.02,
        "activation_func": Name("torch.nn.functional.silu"),
        "init_method": Call("torch.nn.init.normal_", partial=True, mean=0.0, std=0.02),
        "params_dtype": Name("torch.bfloat16"),
        "bf16": True,
        "attention_backend": Name("megatron.core.transformer.enums:AttnBackend.auto"),
        "transformer_layer_spec": Name("nemo.collections.llm.gpt.model.base.default_layer_spec"),
    }
    return Call(target, **{**sizes, **changes})


def vision(target: str = VISION, **changes: Any) -> Call:
    """Return the configuration of a tiny vision tower."""
    sizes = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "fullatt_block_indexes": [1]}
    return Call(target, **{**sizes, **changes})


def config(target: str = CONFIG, **changes: Any) -> Call:
    """Return the configuration of a tiny Qwen2.5-VL."""
    parts: Json = {
        "language_transformer_config": language(),
        "vision_transformer_config": vision(),
        "vision_projection_config": Call(PROJECTION, projector_type="mcore_mlp", input_size=256, hidden_size=512),
        "vision_feature_layer": -1,
        "bf16": True,
        "params_dtype": Name("torch.bfloat16"),
        "forward_step_fn": Name("nemo.collections.vlm.qwen2vl.model.base.qwen2vl_forward_step"),
    }
    return Call(target, **{**parts, **changes})


def context(model: Call | None = None, **rest: Any) -> Call:
    """Return a whole graph: a model and the trainer that made it."""
    strategy = Call("nemo.lightning.pytorch.strategies.megatron_strategy.MegatronStrategy", ddp="megatron")
    trainer = Call("nemo.lightning.pytorch.trainer.Trainer", devices=1, strategy=strategy)
    model = model or Call(MODEL, config=config(), model_version="qwen25-vl")
    return Call("nemo.lightning.io.pl.TrainerContext", **{"model": model, "trainer": trainer, "extra": {}, **rest})


def checkpoint(graph: Call | Json | None = None, *, processor: bool = True) -> FileTree:
    """Return the files of a checkpoint whose graph is `graph`, a tiny Qwen2.5-VL's unless given."""
    written = graph if isinstance(graph, dict) else document(graph or context())
    files: FileTree = {
        "context/io.json": json.dumps(written),
        "context/model.yaml": "{}\n",
        "weights/common.pt": b"state",
        **{f"weights/{path}": content for path, content in torch_index.distributed_checkpoint().items()},
    }
    return files | ({"context/processor/preprocessor_config.json": "{}"} if processor else {})


def write(root: Path, graph: Call | Json | None = None, *, processor: bool = True) -> Path:
    """Write `checkpoint` into a folder and return that."""
    return build_file_tree(root, checkpoint(graph, processor=processor))
