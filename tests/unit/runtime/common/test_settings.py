import pytest

from trition_repo_gen.runtime.common.settings import Settings, SettingsError, cuda_graphs_obstacle


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
