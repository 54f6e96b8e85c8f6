"""Converts Hugging Face's Qwen2-VL and Qwen2.5-VL models to NeMo 2.0 checkpoints with nemo-toolkit, on the CPU.

    python examples/make_nemo_checkpoint.py HF_FOLDER OUT [HF_FOLDER OUT ...] [--dtype float32|bfloat16] [--force]

Runs in NeMo's environment. nemo-toolkit's own importer maps the weights, its trainer writes OUT/context and
OUT/weights. OUT/context/processor is the tokenizer's folder that the graph in OUT/context names, and holds the whole
processor. Several pairs share one start of the libraries. A pair whose OUT is complete already is skipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from make_checkpoint import RUNTIME, MakeCheckpointError, dtype_of, pairs_of

COMPLETE = "context/io.json"


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` is a whole or half-written checkpoint, and so may be replaced."""
    return (folder / "context").is_dir() or (folder / "weights").is_dir()


def load_libraries() -> None:
    """Imports nemo-toolkit behind the façade of the runtime's CPU backend."""
    # A GPU would have to bring Transformer Engine, and the conversion only copies.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.insert(0, str(RUNTIME))
    from runtime.rank import cpu

    cpu.install_facade()
    from runtime.rank.loaders import upstream

    upstream.without_tensorstore()
    from nemo.collections import vlm  # noqa: F401


def nemo_config(source: Path, dtype: Any) -> Any:
    """The `Qwen2VLConfig` of the model in ``source``.

    nemo-toolkit 2.7.3 has the same in `HFQwen2VLImporter.config` (vlm/qwen2vl/model/qwen2vl.py:290), which refuses
    every transformers after 4.51.3 although it needs 4.57, and takes the vision tower's sizes for those of the
    published models.
    """
    import torch
    import transformers
    from nemo.collections.llm import Qwen2Config
    from nemo.collections.vlm.qwen2vl.model.base import Qwen2VLConfig, Qwen2VLVisionConfig, Qwen25VLVisionConfig
    from nemo.collections.vlm.vision import MultimodalProjectorConfig

    hugging_face = transformers.AutoConfig.from_pretrained(source)
    text, vision = hugging_face.text_config, hugging_face.vision_config
    types = {"fp16": False, "bf16": dtype == torch.bfloat16, "params_dtype": dtype}
    language = Qwen2Config(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        ffn_hidden_size=text.intermediate_size,
        num_attention_heads=text.num_attention_heads,
        num_query_groups=text.num_key_value_heads,
        init_method_std=text.initializer_range,
        layernorm_epsilon=text.rms_norm_eps,
        rotary_base=text.rope_theta,
        gated_linear_unit=True,
        seq_length=min(text.max_position_embeddings, Qwen2Config.seq_length),
        make_vocab_size_divisible_by=text.vocab_size & -text.vocab_size,  # so that no row is added
        share_embeddings_and_output_weights=text.tie_word_embeddings,
        vocab_size=text.vocab_size,
        **types,
    )
    newer = hugging_face.model_type == "qwen2_5_vl"
    width = vision.hidden_size if newer else vision.embed_dim
    sizes = {
        "num_layers": vision.depth,
        "hidden_size": width,
        "embed_dim": width,
        "num_attention_heads": vision.num_heads,
        "num_query_groups": vision.num_heads,
        "kv_channels": width // vision.num_heads,
    }
    if newer:
        tower = Qwen25VLVisionConfig(
            ffn_hidden_size=vision.intermediate_size,
            fullatt_block_indexes=list(vision.fullatt_block_indexes),
            **sizes,
            **types,
        )
    else:
        tower = Qwen2VLVisionConfig(ffn_hidden_size=int(width * vision.mlp_ratio), **sizes, **types)
    merged = width * vision.spatial_merge_size**2
    projector = MultimodalProjectorConfig(
        projector_type="mcore_mlp",
        input_size=merged,
        hidden_size=text.hidden_size,
        ffn_hidden_size=merged,
        **types,
    )
    return Qwen2VLConfig(
        language_transformer_config=language,
        vision_transformer_config=tower,
        vision_projection_config=projector,
        vision_feature_layer=-1,
        **types,
    )


def importer_of(source: Path, processor: Path, dtype: Any) -> Any:
    """nemo-toolkit's importer for the model in ``source``, taught what it does not know of this environment.

    Args:
        source: the model.
        processor: the folder of its processor. nemo-toolkit copies the tokenizer's folder into the checkpoint, by its
            name and with all that it holds.
        dtype: of the weights.
    """
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
    from nemo.collections.vlm.qwen2vl.model.base import Qwen2VLModel
    from nemo.collections.vlm.qwen2vl.model.qwen2vl import HFQwen2VLImporter
    from nemo.collections.vlm.vision import base as projector
    from nemo.lightning import io, teardown
    from nemo.lightning.io.state import _ModelState
    from runtime.rank.loaders import nemo2_layers
    from transformers import AutoModelForImageTextToText

    class Importer(HFQwen2VLImporter):  # type: ignore[misc]
        @cached_property
        def config(self) -> Any:
            return nemo_config(source, dtype)

        @cached_property
        def tokenizer(self) -> Any:
            return AutoTokenizer(str(processor))

        def init(self) -> Any:
            version = "qwen25-vl" if self.is_v2_5 else "qwen2-vl"
            return Qwen2VLModel(self.config, model_version=version, tokenizer=self.tokenizer)

        def apply(self, output_path: Path) -> Path:
            hugging_face = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
            self.is_v2_5 = hugging_face.config.model_type == "qwen2_5_vl"
            # The graph in context/ holds the arguments that the configuration was made with, so that it stays as
            # nemo-toolkit writes it: without these layers, which only let the model be built here.
            projector.TEColumnParallelLinear, projector.TERowParallelLinear = nemo2_layers.linear_layers(False)
            target = self.init()
            for part in (target.config, *parts_of(target.config)):
                part.gradient_accumulation_fusion = False  # a training kernel that Apex has to bring
                part.use_cpu_initialization = True
            nemo2_layers.use_torch(target.config)
            trainer = self.nemo_setup(target, ckpt_async_save=False)
            target.to(dtype)
            state = _ModelState(names_of_4_51(hugging_face.state_dict()))
            state.config = hugging_face.config
            self.convert_state(state, target)
            self.nemo_save(output_path, trainer)
            teardown(trainer, target)
            return output_path

        def convert_state(self, state: Any, target: Any) -> Any:
            # It asks nemo.lightning.io for the function, with the names of Transformer Engine's layers.
            original = io.apply_transforms
            io.apply_transforms = lambda source, target, mapping, transforms: original(
                source, target, mapping=names_without_te(mapping), transforms=transforms
            )
            try:
                return super().convert_state(state, target)
            finally:
                io.apply_transforms = original

    return Importer(str(source))


def parts_of(config: Any) -> tuple[Any, Any, Any]:
    """The configurations of language model, vision tower and projector."""
    return config.language_transformer_config, config.vision_transformer_config, config.vision_projection_config


def names_of_4_51(state: Mapping[str, Any]) -> dict[str, Any]:
    """A model's weights by the names that transformers gave them up to 4.51, which nemo-toolkit's mapping has."""
    return {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): weight
        for name, weight in state.items()
    }


def names_without_te(mapping: Mapping[str, str]) -> dict[str, str]:
    """A mapping with norms as modules of their own in its targets; Transformer Engine's linear layers hold them."""
    return {
        name: target.replace("self_attention.linear_qkv.layer_norm_", "input_layernorm.").replace(
            "mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."
        )
        for name, target in mapping.items()
    }


def convert(source: Path, out: Path, dtype: str) -> None:
    """Writes ``out`` whole or not at all: nemo-toolkit saves into a sibling that takes its name at the end."""
    import torch
    from transformers import AutoProcessor

    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        with tempfile.TemporaryDirectory() as folder:
            processor = Path(folder, "processor")
            AutoProcessor.from_pretrained(source).save_pretrained(processor)
            importer_of(source, processor, getattr(torch, dtype)).apply(unfinished)
        shutil.rmtree(out, ignore_errors=True)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="HF_FOLDER OUT")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights; default: as in config.json")
    parser.add_argument("--force", action="store_true", help="convert again what is complete already")
    arguments = parser.parse_args()
    try:
        pairs = pairs_of(arguments.paths, is_checkpoint)
    except MakeCheckpointError as error:
        print(f"make_nemo_checkpoint: {error}", file=sys.stderr)
        return 2
    left = [pair for pair in pairs if arguments.force or not (pair[1] / COMPLETE).is_file()]
    for pair in pairs:
        if pair not in left:
            print(f"{pair[1]} is complete already: use --force to convert again.")
    if left:
        load_libraries()
        for source, out in left:
            out.parent.mkdir(parents=True, exist_ok=True)
            convert(source, out, arguments.dtype or dtype_of(source))
            print(f"{out} is written.")
    return 0


if __name__ == "__main__":  # needed beyond habit: saving spawns a process that imports this file again
    sys.exit(main())
