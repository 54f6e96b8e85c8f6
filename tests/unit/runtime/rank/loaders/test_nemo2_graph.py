"""Graphs as NeMo writes them, and hostile ones. What is hostile would be imported or called by whoever loads it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.files.nemo2 import LANGUAGE, MODEL, Call, Name, Pickled, config, context, document, language, write
from trition_repo_gen.runtime.rank.loaders.nemo2_graph import Config, Graph, GraphError
from trition_repo_gen.runtime.rank.loaders.nemo2_names import Symbol


def graph(tmp_path: Path, written: Any = None) -> Graph:
    return Graph(write(tmp_path / "checkpoint", written) / "context")


def qwen(**changes: Any) -> Call:
    return context(Call(MODEL, config=config(language_transformer_config=language(**changes))))


def test_a_graph_is_read_as_plain_data(tmp_path: Path) -> None:
    model = graph(tmp_path).model
    assert str(model.target) == MODEL
    assert model.get("model_version") == "qwen25-vl"
    assert model.get("config", "language_transformer_config", "num_layers") == 4
    assert model.get("config", "language_transformer_config", "params_dtype") == Symbol("torch", "bfloat16")
    assert model.get("config", "language_transformer_config", "init_method") == Config(
        Symbol("torch.nn.init", "normal_"), {"mean": 0.0, "std": 0.02}
    )
    assert model.get("config", "vision_transformer_config", "fullatt_block_indexes") == [1]
    assert model.get("config", "vision_transformer_config", "nothing", "at", "all") is None


def test_only_the_models_configuration_is_handed_on(tmp_path: Path) -> None:
    part = graph(tmp_path).document()
    text = json.dumps(part)
    assert "Qwen2VLConfig" in text
    assert "Qwen2Config" in text
    assert "Qwen2VLModel" not in text
    assert "Trainer" not in text
    assert set(part) == {"root", "objects", "refcounts", "version"}
    assert part["root"]["key"] in part["objects"]


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "subprocess.Popen",
        "builtins.eval",
        "builtins.exec",
        "builtins.open",
        "builtins.__import__",
        "builtins.getattr",
        "importlib.import_module",
        "pickle.loads",
        "runpy.run_path",
        "webbrowser.open",
        "my_package.MyConfig",
        "nemo_evil.Config",
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "torch.utils.cpp_extension.load_inline",
        "torch.classes.load_library",
        "torch.serialization.load",
        "transformers.AutoModel",
        "transformers.pipelines.pipeline",
        "transformers.dynamic_module_utils.get_class_from_dynamic_module",
        "numpy.load",
        "numpy.f2py.compile",
        "megatron.core.transformer.spec_utils.ModuleSpec",
        "megatron.core.transformer.spec_utils.import_module",
        "nemo.core.config.hydra_runner.hydra_runner",
        "nemo.lightning.io.mixin.load",
        "nemo.collections.llm.api.import_ckpt",
        "nemo.collections.llm.gpt.model.base.subprocess",
        "nemo.collections.vlm.hf.model.hf_auto_model_for_image_text_to_text.HFAutoModelForImageTextToText",
        # through a module that another one imported
        "torch:os.system",
        "torch.nn.functional:torch.os.system",
        "megatron.core.enums:enum.sys.modules",
        "nemo.collections.llm:api.os.system",
        "nemo.collections.llm.gpt.model.base:Qwen2Config.__init__.__globals__",
        # not the module that it looks like
        "torchx.bfloat16",
        "nemo.collections.llm\n.Qwen2Config",
        ".eval",
        "eval",
    ],
)
def test_a_model_that_could_run_something_is_refused_by_name(tmp_path: Path, name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(GraphError) as refusal:
        graph(tmp_path, qwen(activation_func=Name(name)))
    assert f"names {Symbol(Name(name).module, Name(name).name)}," in str(refusal.value)
    assert "it was not imported" in str(refusal.value)
    assert {"webbrowser", "runpy", "torch", "nemo"} & (set(sys.modules) - before) == set()


@pytest.mark.parametrize("name", ["os.system", "nemo.lightning.io.mixin.load", "torch:os.system"])
@pytest.mark.parametrize("place", ["call", "partial", "type", "metadata"])
def test_in_whatever_place(tmp_path: Path, name: str, place: str) -> None:
    named = Name(name)
    if place == "type":
        written = document(qwen(rotary_base=Pickled(name, "payload")))
    elif place == "metadata":
        # fiddle makes a named tuple by calling what stands in its metadata
        written = document(qwen())
        _metadata_of(written, LANGUAGE)["metadata"].update(module=named.module, name=named.name)
    else:
        written = document(qwen(rotary_base=Call(name, partial=place == "partial", command="true")))
    with pytest.raises(GraphError) as refusal:
        graph(tmp_path, written)
    assert str(Symbol(named.module, named.name)) in str(refusal.value) or place == "metadata"


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "my_package.data.MyDataModule", "nemo.lightning:io.os.system", "torch.load"]
)
def test_so_is_a_trainer(tmp_path: Path, name: str) -> None:
    written = context(extra={"datamodule": Call(name, paths=["x"])})
    with pytest.raises(GraphError, match="it was not imported"):
        graph(tmp_path, written)


def test_a_trainer_of_nemo_is_not(tmp_path: Path) -> None:
    written = context(
        trainer=Call(
            "nemo.lightning.pytorch.trainer.Trainer",
            callbacks=[
                Call("nemo.lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint", save_last=True),
                Call("nemo.utils.exp_manager.TimingCallback"),
                Pickled("nemo.lightning.pytorch.callbacks.preemption.PreemptionCallback", "0b5c-pickle"),
            ],
            plugins=Call(
                "nemo.lightning.pytorch.plugins.mixed_precision.MegatronMixedPrecision", precision="bf16-mixed"
            ),
            logger=Call("lightning.pytorch.loggers.wandb.WandbLogger", name="run"),
        ),
        extra={"datamodule": Call("nemo.collections.vlm.qwen2vl.data.mock.Qwen2VLMockDataModule", seq_length=4096)},
    )
    assert graph(tmp_path, written).model.get("model_version") == "qwen25-vl"


def test_a_target_in_yamls_form(tmp_path: Path) -> None:
    written = document(context())
    written["objects"]["object_0"]["extra"] = {"_target_": "os.system", "_args_": ["true"]}
    with pytest.raises(GraphError, match=r"names os\.system"):
        graph(tmp_path, written)


def test_a_name_below_a_type_that_is_no_reference(tmp_path: Path) -> None:
    """nemo's own `load` locates module and name of every object, whatever its type says else."""
    written = document(context())
    written["objects"]["other"] = {"type": {"module": "os", "name": "system"}, "items": [], "metadata": None}
    with pytest.raises(GraphError, match=r"names os\.system"):
        graph(tmp_path, written)


@pytest.mark.parametrize("factory", ["os.system", "my_package.quantizer"])
def test_a_path_that_megatron_would_import(tmp_path: Path, factory: str) -> None:
    with pytest.raises(GraphError, match=factory):
        graph(tmp_path, qwen(fp8="e4m3", fp8_recipe="custom", fp8_quantizer_factory=factory))


def test_a_pickle_in_the_model(tmp_path: Path) -> None:
    """nemo opens the only item of an object of one of its classes as a pickle."""
    written = qwen(generation_config=Pickled(LANGUAGE, "../../payload"))
    with pytest.raises(GraphError, match=r"keeps a part of the model, nemo.*Qwen2Config, as an object or a pickle"):
        graph(tmp_path, written)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("objects"), "it has no objects"),
        (lambda d: d.update(root={"type": "leaf", "value": 1}), "not the call that it should be"),
        (lambda d: d.update(root={"type": "ref", "key": "nowhere"}), "refers to 'nowhere', which is not there"),
        (lambda d: d["objects"].update(object_0={"type": "ref", "key": "object_0"}), "which is a reference itself"),
        (lambda d: _metadata_of(d, MODEL)["items"].clear(), "not the call that it should be"),
        (lambda d: _call_of(d, LANGUAGE)["items"].pop(), "a call has arguments without names"),
        (lambda d: _call_of(d, LANGUAGE)["items"].append("x"), "an object has no type or no items"),
        (
            lambda d: _call_of(d, LANGUAGE)["items"][0].__setitem__(1, {"type": "leaf", "value": {}}),
            "a plain value is none",
        ),
        (lambda d: _call_of(d, LANGUAGE)["items"][0].__setitem__(1, {"what": 1}), "an object has no type or no items"),
    ],
)
def test_a_damaged_graph(tmp_path: Path, change: Any, sentence: str) -> None:
    written = document(context())
    change(written)
    with pytest.raises(GraphError, match=sentence):
        graph(tmp_path, written)


def test_an_object_that_contains_itself(tmp_path: Path) -> None:
    written = document(context())
    key = next(key for key, node in written["objects"].items() if node is _call_of(written, LANGUAGE))
    _call_of(written, LANGUAGE)["items"][0][1] = {"type": "ref", "key": key}
    with pytest.raises(GraphError, match="contains itself"):
        graph(tmp_path, written)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "io.json").write_bytes(content)
    with pytest.raises(GraphError, match="is damaged"):
        Graph(tmp_path)


def test_objects_that_refer_to_each_other_many_times_cost_no_more(tmp_path: Path) -> None:
    written = document(context())
    names = {
        f"bomb_{i}": {
            "type": {"type": "pyref", "module": "builtins", "name": "list"},
            "metadata": None,
            "items": [["", {"type": "ref", "key": f"bomb_{i + 1}"}] for _ in range(2)],
        }
        for i in range(200)
    }
    names["bomb_199"]["items"] = []
    written["objects"].update(names)
    _call_of(written, LANGUAGE)["items"][0][1] = {"type": "ref", "key": "bomb_0"}
    assert isinstance(graph(tmp_path, written).model.get("config", "language_transformer_config", "num_layers"), list)


def _metadata_of(written: dict[str, Any], target: str) -> dict[str, Any]:
    name = Name(target)
    nodes: list[dict[str, Any]] = list(written["objects"].values())
    for node in nodes:
        first = node["items"][0][1] if node["items"] else None
        if isinstance(first, dict) and (first.get("module"), first.get("name")) == (name.module, name.name):
            return node
    raise LookupError(target)


def _call_of(written: dict[str, Any], target: str) -> dict[str, Any]:
    metadata = _metadata_of(written, target)
    key = next(key for key, node in written["objects"].items() if node is metadata)
    nodes: list[dict[str, Any]] = list(written["objects"].values())
    return next(node for node in nodes if node["metadata"] == {"type": "ref", "key": key})
