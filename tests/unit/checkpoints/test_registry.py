"""The registries of checkpoint kinds and families: both sides agree, and a new kind is one line."""

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.files import nemo2 as nemo2_files
from trition_repo_gen import checkpoints
from trition_repo_gen.checkpoints import KINDS, Checkpoint, CheckpointKind, recognise, text_families
from trition_repo_gen.checkpoints.checkpoint_kind import ReadOptions
from trition_repo_gen.errors import CheckpointError
from trition_repo_gen.repository.options import BuildOptions
from trition_repo_gen.repository.source import read_checkpoint
from trition_repo_gen.runtime.common import checkpoint_kinds
from trition_repo_gen.runtime.common.errors import LoadError
from trition_repo_gen.runtime.common.settings import Settings, SettingsError
from trition_repo_gen.runtime.rank.engines.images import families
from trition_repo_gen.runtime.rank.loaders import registry

RUNTIME = Path(families.__file__).parents[4]


@pytest.fixture
def safetensors(make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> CheckpointKind:
    """A third kind, a folder with a `model.safetensors`, registered in one line."""
    template = checkpoints.read(make_checkpoint("template"))

    def read(path: Path, options: ReadOptions) -> Checkpoint:
        if options.needs_tokenizer and not (path / "tokenizer.json").is_file():
            raise CheckpointError(f"{path} holds no tokenizer; write --tokenizer PATH.")
        return dataclasses.replace(template, kind="safetensors", root=path, iteration=path)  # type: ignore[arg-type]

    kind = dataclasses.replace(
        KINDS["megatron_bridge"],
        name="safetensors",  # type: ignore[arg-type]
        title="safetensors",
        marks=("model.safetensors",),
        folder="the folder that was saved",
        find_root=lambda path: path if (path / "model.safetensors").is_file() else None,
        instead=lambda root: f"write {root} alone",
        read=read,
    )
    monkeypatch.setitem(KINDS, kind.name, kind)
    return kind


class TestAThirdKind:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "third"
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"w")
        return path

    def test_its_folder_is_recognised_and_read(self, safetensors: CheckpointKind, path: Path) -> None:
        assert recognise(path) is safetensors
        checkpoint = read_checkpoint(BuildOptions(model_name="m", checkpoint=path, tokenizer="somebody/tokenizer"))
        assert (checkpoint.kind, checkpoint.root) == ("safetensors", path)

    @pytest.mark.usefixtures("safetensors")
    def test_its_reader_refuses(self, path: Path) -> None:
        with pytest.raises(CheckpointError, match="third holds no tokenizer; write --tokenizer"):
            read_checkpoint(BuildOptions(model_name="m", checkpoint=path))

    @pytest.mark.usefixtures("safetensors")
    def test_it_is_not_the_kind_of_another_flag(self, path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"third is a safetensors checkpoint; write .*third alone\.$"):
            read_checkpoint(BuildOptions(model_name="m", megatron_checkpoint=path))

    @pytest.mark.usefixtures("safetensors")
    def test_an_empty_folder_lacks_its_marks_as_well(self, tmp_path: Path) -> None:
        with pytest.raises(
            CheckpointError, match=r"neither context/io\.json .* nor model\.safetensors \(safetensors\); write"
        ):
            recognise(tmp_path)


class TestRecognise:
    def test_both_kinds(self, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
        root = make_checkpoint()
        assert recognise(root) is recognise(root / "iter_0000000") is KINDS["megatron_bridge"]
        nemo = nemo2_files.write(tmp_path / "qwen")
        assert recognise(nemo) is recognise(nemo / "weights") is recognise(nemo / "context") is KINDS["nemo2"]

    def test_nothing(self, tmp_path: Path) -> None:
        sentence = "There is no checkpoint at .*nowhere; write the path of a NeMo 2.0 or Megatron-Bridge checkpoint"
        with pytest.raises(CheckpointError, match=sentence):
            recognise(tmp_path / "nowhere")

    def test_a_kind_that_is_not_served(self, tmp_path: Path) -> None:
        (tmp_path / "old.nemo").write_bytes(b"tar")
        with pytest.raises(CheckpointError, match=r"old\.nemo is a NeMo 1\.0 archive; convert it"):
            recognise(tmp_path / "old.nemo")

    def test_a_multimodal_bridge_checkpoint_under_the_name_of_either(
        self, make_checkpoint: Callable[..., Path]
    ) -> None:
        root = make_checkpoint(
            _target_="megatron.bridge.models.qwen_vl.qwen25_vl_provider.Qwen25VLModelProvider",
            vision_config={"num_heads": 16, "intermediate_size": 3420},
            hf_model_id="Qwen/Qwen2.5-VL-3B-Instruct",
        )
        checkpoint = read_checkpoint(BuildOptions(model_name="m", checkpoint=root, multimodal=True))
        assert (checkpoint.kind, checkpoint.family) == ("megatron_bridge", "Qwen2.5-VL")


class TestBothSidesAgree:
    @pytest.mark.parametrize("name", checkpoint_kinds.NAMES)
    def test_a_kind_has_a_reader_and_a_loader(self, name: str) -> None:
        assert KINDS[name].name == name
        loader = registry.loader(name)
        assert loader.LIBRARY
        assert callable(loader.import_libraries)
        assert callable(loader.load)

    def test_there_is_no_other(self) -> None:
        assert tuple(KINDS) == checkpoint_kinds.NAMES
        with pytest.raises(LoadError, match="CHECKPOINT_KIND is 'zarr'; it has to be one of nemo2, megatron_bridge"):
            registry.loader("zarr")
        with pytest.raises(SettingsError, match="one of nemo2, megatron_bridge"):
            Settings.from_parameters({"CHECKPOINT": "/c", "CHECKPOINT_KIND": "zarr"})

    def test_looking_a_loader_up_imports_no_library(self) -> None:
        assert "torch" not in sys.modules


class TestFamilies:
    @pytest.mark.parametrize("table", [families.NEMO2, families.MEGATRON_BRIDGE])
    def test_a_served_family_has_what_it_takes(self, table: dict[str, families.Family]) -> None:
        for family in table.values():
            if not family.served:
                continue
            assert family.max_sequence_length > 0
            assert family.library_class
            module, _, name = family.run_by.partition(".")
            source = (RUNTIME / "rank/engines/images/families" / f"{module}.py").read_text()
            assert re.search(rf"^class {name}\(MultimodalModel\):", source, re.MULTILINE)

    def test_no_provider_is_both_a_text_and_a_multimodal_family(self) -> None:
        assert not families.MEGATRON_BRIDGE.keys() & text_families.PROVIDERS.keys()

    @pytest.mark.parametrize(
        ("provider", "model", "sentence"),
        [
            ("GPTModelProvider", {}, None),
            ("GPTModelProvider", {"softmax_type": "vanilla", "attn_logit_softcapping": None}, None),
            ("SomethingNewProvider", {}, None),
            ("T5ModelProvider", {}, "is a T5ModelProvider; of models of text only decoders are served."),
            ("GPTModelProvider", {"softmax_type": "learnable"}, "holds a model with attention sinks (softmax_type lea"),
            ("Gemma2ModelProvider", {"attn_logit_softcapping": 50.0}, "holds a model that caps its attention's logits"),
        ],
    )
    def test_text(self, provider: str, model: dict[str, object], sentence: str | None) -> None:
        refusal = text_families.refusal(provider, model)
        assert refusal == sentence or (sentence and refusal and refusal.startswith(sentence))
