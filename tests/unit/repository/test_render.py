import ast
import re
from dataclasses import replace
from pathlib import PurePosixPath

from trition_repo_gen import __version__
from trition_repo_gen.repository.deployment import Deployment
from trition_repo_gen.repository.render import (
    CONFIG,
    MULTIMODAL_ONLY,
    is_edited,
    render,
    render_streaming_model,
    sign,
    templates_folder,
)
from trition_repo_gen.repository.validate import parse


def test_the_files_of_a_model_folder(deployment: Deployment) -> None:
    files = render(deployment)
    assert CONFIG in files
    assert {path.parts[0] for path in files} == {"config.pbtxt", "3"}
    assert PurePosixPath("3/model.py") in files
    assert PurePosixPath("3/runtime/common/settings.py") in files
    assert PurePosixPath("3/runtime/rank/__init__.py") in files
    assert not [path for path in files if "__pycache__" in path.parts or path.suffix == ".pyc"]


def test_nothing_of_trgen_is_needed(deployment: Deployment) -> None:
    """The copied runtime imports itself relatively, so that it works under its new name."""
    for path, content in render(deployment).items():
        if path.suffix == ".py":
            modules = [
                node.module or ""
                for node in ast.walk(ast.parse(content))
                if isinstance(node, ast.ImportFrom) and not node.level
            ]
            assert not [module for module in modules if module.startswith("trition_repo_gen")], path


def test_inputs_and_outputs_are_the_contracts(deployment: Deployment) -> None:
    config = parse(render(deployment)[CONFIG].decode())
    types = config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    inputs = {tensor.name: types[tensor.data_type].name.removeprefix("TYPE_") for tensor in config.input}
    assert inputs == {
        "prompts": "STRING",
        "max_length": "INT64",
        "max_batch_size": "INT64",
        "top_k": "INT64",
        "top_p": "FP32",
        "temperature": "FP32",
        "random_seed": "INT64",
        "min_p": "FP32",
        "repetition_penalty": "FP32",
        "presence_penalty": "FP32",
        "frequency_penalty": "FP32",
        "logit_bias": "STRING",
        "stop_token_ids": "STRING",
        "min_length": "INT64",
        "ignore_eos": "BOOL",
        "stop_words": "STRING",
        "compute_logprob": "BOOL",
        "n_top_logprobs": "INT64",
        "apply_chat_template": "BOOL",
        "echo": "BOOL",
        "use_greedy": "BOOL",
    }
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["prompts"]
    # Triton's `generate` makes an element of each text of a JSON list; a client sends (N, 1) all the same.
    assert {tensor.name for tensor in config.input if list(tensor.dims) == [-1]} == {"stop_words"}
    assert all(list(tensor.dims) in ([1], [-1]) for tensor in config.input)
    outputs = {tensor.name: list(tensor.dims) for tensor in config.output}
    assert outputs == {
        "sentences": [1],
        "log_probs": [-1],
        "top_logprobs": [1],
        "log_probs_lengths": [1],
        "tokens": [1],
        "finish_reason": [1],
        "prompt_tokens": [1],
        "completion_tokens": [1],
    }


def test_one_light_instance_and_a_queue_policy_with_which_the_batcher_looks_ahead(deployment: Deployment) -> None:
    config = parse(render(deployment)[CONFIG].decode())
    assert config.backend == "python"
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, config.instance_group[0].KIND_CPU)]
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (0, 0)
    assert not policy.allow_timeout_override
    assert policy.timeout_action == policy.REJECT
    assert not config.HasField("version_policy")


def test_every_parameter_stands_in_a_group_with_a_comment(deployment: Deployment) -> None:
    text = render(deployment)[CONFIG].decode()
    written = re.findall(r'^(# )?parameters \{ key: "([A-Z_]+)"', text, flags=re.MULTILINE)
    # An empty one stands there as a comment: PyTriton's client cannot read a configuration that has any.
    assert [(key, bool(mark)) for mark, key in written] == [
        (key, not value) for key, value in deployment.settings.to_parameters().items() if key not in MULTIMODAL_ONLY
    ]
    blocks = [block for block in text.split("\n\n") if "\nparameters {" in block]
    assert len(blocks) == 5
    assert all(block.startswith("# ") for block in blocks)
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120


def test_texts_are_quoted(deployment: Deployment) -> None:
    config = parse(render(deployment)[CONFIG].decode())
    assert config.parameters["CHECKPOINT"].string_value == deployment.settings.checkpoint


def test_model_py_has_two_doors(deployment: Deployment) -> None:
    text = render(deployment)[PurePosixPath("3/model.py")].decode()
    tree = ast.parse(text)
    assert (ast.get_docstring(tree) or "").startswith(f"Generated by trgen {__version__}.")
    doors = [node for node in tree.body if isinstance(node, ast.If)]
    assert [ast.unparse(door.test) for door in doors] == ["__name__ == '__main__'"]
    assert "runtime.rank.main" in ast.unparse(doors[0].body[0])
    assert "TritonPythonModel" in ast.unparse(ast.Module(doors[0].orelse, []))


def test_templates_lie_in_the_checkout() -> None:
    assert {path.name for path in templates_folder().iterdir()} >= {"config.pbtxt.j2", "model.py.j2"}


def test_an_edit_by_hand_is_known() -> None:
    config = sign("# Generated by trgen\nmax_batch_size: 8\n")
    assert not is_edited(config)
    assert is_edited(config.replace("8", "16"))
    assert is_edited(config + "# one more line\n")
    assert is_edited("max_batch_size: 8\n")


def test_only_a_multimodal_model_takes_images(deployment: Deployment) -> None:
    settings = replace(deployment.settings, multimodal=True, allow_image_urls="a.example.org", max_images=3)
    multimodal = deployment.model_copy(update={"settings": settings})
    for files in (render(multimodal), render_streaming_model(multimodal, "stream")):
        config = parse(files[CONFIG].decode())
        assert [(tensor.name, tensor.optional) for tensor in config.input if tensor.name == "images"] == [
            ("images", True)
        ]
        assert config.parameters["ALLOW_IMAGE_URLS"].string_value == "a.example.org"
        assert config.parameters["MAX_IMAGES"].string_value == "3"
    for files in (render(deployment), render_streaming_model(deployment, "stream")):
        config = parse(files[CONFIG].decode())
        assert not [tensor for tensor in config.input if tensor.name == "images"]
        assert not MULTIMODAL_ONLY & set(config.parameters)
