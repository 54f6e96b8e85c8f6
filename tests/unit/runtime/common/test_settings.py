import ast
from pathlib import Path

import pytest

from trition_repo_gen.docstrings import field_docstrings
from trition_repo_gen.runtime.common import settings as settings_module
from trition_repo_gen.runtime.common.parameters import field_names, only_for
from trition_repo_gen.runtime.common.settings import Settings, SettingsError, StreamSettings, cuda_graphs_obstacle


def test_parameters_round_trip() -> None:
    settings = Settings(
        checkpoint="/ckpt", tensor_parallel_size=2, sequence_parallel=True, kv_cache_gib=1.5, num_gpus=4
    )

    parameters = settings.to_parameters()

    assert parameters["TENSOR_PARALLEL_SIZE"] == "2"
    assert parameters["SEQUENCE_PARALLEL"] == "true"
    assert Settings.from_parameters(parameters) == settings


def test_missing_parameters_have_their_defaults() -> None:
    assert Settings.from_parameters({"CHECKPOINT": "/ckpt"}) == Settings(checkpoint="/ckpt")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({}, "config.pbtxt has no parameter 'CHECKPOINT'"),
        ({"CHECKPOINT": "/c", "TENSOR_PARALEL_SIZE": "2"}, "'TENSOR_PARALEL_SIZE' that nothing reads"),
        (
            {"CHECKPOINT": "/c", "TENSOR_PARALLEL_SIZE": "two"},
            "TENSOR_PARALLEL_SIZE is 'two'; it has to be a whole number",
        ),
        ({"CHECKPOINT": "/c", "MAX_REQUESTS": "-1"}, "MAX_REQUESTS is '-1'; it must not be negative"),
        ({"CHECKPOINT": "/c", "KV_CACHE_GIB": "nan"}, "KV_CACHE_GIB is 'nan'; it must not be negative"),
        ({"CHECKPOINT": "/c", "SEQUENCE_PARALLEL": "yes"}, "SEQUENCE_PARALLEL is 'yes'; it has to be true or false"),
        ({"CHECKPOINT": "/c", "PARAMS_DTYPE": "int8"}, "one of float16, bfloat16, float32"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Settings.from_parameters(parameters)


def test_sizes_follow_from_the_layout() -> None:
    settings = Settings(checkpoint="/c", tensor_parallel_size=2, pipeline_parallel_size=2, num_gpus=4, num_nodes=2)

    assert (settings.world_size, settings.model_parallel_size, settings.data_parallel_size) == (8, 4, 2)


def test_what_keeps_steps_from_being_recorded() -> None:
    assert cuda_graphs_obstacle(stages=1, experts=0) is None
    assert cuda_graphs_obstacle(stages=2, experts=0) == "more than one pipeline stage"
    assert cuda_graphs_obstacle(stages=1, experts=8) == "a mixture of experts"


@pytest.mark.parametrize(
    "key",
    ["ENABLE_FLASH_DECODE", "FORCE_CPU_ONLY_INPUT_TENSORS", "EXECUTION_ENV_PATH", "TRITON_BATCH_STRATEGY_PATH"],
)
def test_a_parameter_of_an_earlier_build_or_of_triton_is_let_be(key: str) -> None:
    settings = Settings(checkpoint="/c")
    assert Settings.from_parameters({**settings.to_parameters(), key: "yes"}) == settings
    assert key not in settings.to_parameters()
    assert StreamSettings.from_parameters({"STREAM_OF": "m", key: "yes"}) == StreamSettings(stream_of="m")


def test_the_streaming_model_has_the_settings_of_its_model() -> None:
    settings = Settings(
        checkpoint="/c", multimodal=True, allow_image_urls="a.org", max_images=3, max_image_mib=1.5, start_timeout=7
    )
    assert StreamSettings.of(settings, stream_of="m") == StreamSettings(
        stream_of="m", multimodal=True, allow_image_urls="a.org", max_images=3, max_image_mib=1.5, start_timeout=7
    )


def test_who_reads_a_setting_is_a_part_of_its_type() -> None:
    multimodal, text = (only_for(Settings, multimodal=each) for each in (True, False))
    assert {"multimodal", "processor", "max_images", "allow_image_urls"} <= multimodal
    assert {"fused_layers", "enable_prefix_caching", "sequence_parallel"} <= text
    assert not multimodal & text


def test_every_setting_is_read_by_the_runtime() -> None:
    """A parameter that nothing reads would promise what does not happen."""
    root = Path(settings_module.__file__).parents[1]
    read = {
        node.attr
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert not [name for kind in (Settings, StreamSettings) for name in field_names(kind) if name not in read]


def test_every_setting_has_a_description() -> None:
    for kind in (Settings, StreamSettings):
        assert set(field_docstrings(kind)) == set(field_names(kind))
        assert all(text.endswith(".") for text in field_docstrings(kind).values())
