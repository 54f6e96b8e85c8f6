import subprocess
import sys

import pytest

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.repository.deployment import Deployment
from trition_repo_gen.repository.render import CONFIG, render
from trition_repo_gen.repository.validate import parse, read_settings, validate


def test_what_is_rendered_reads_back(deployment: Deployment) -> None:
    text = render(deployment)[CONFIG].decode()
    validate(text, deployment)
    assert read_settings(parse(text)) == deployment.settings


def test_text_that_triton_cannot_read() -> None:
    with pytest.raises(RepositoryError, match=r"Triton cannot read this config.pbtxt: 2:1 .*no field named"):
        parse('name: "llama"\ncolour: "red"\n')


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('key: "NUM_GPUS"', 'key: "NUM_GPU"', "has a parameter 'NUM_GPU' that nothing reads; remove it"),
        (
            '"TENSOR_PARALLEL_SIZE", value: { string_value: "2"',
            '"TENSOR_PARALLEL_SIZE", value: { string_value: "two"',
            "'two'",
        ),
    ],
)
def test_parameters_that_nothing_reads(deployment: Deployment, old: str, new: str, sentence: str) -> None:
    text = render(deployment)[CONFIG].decode()
    assert old in text
    with pytest.raises(RepositoryError, match=sentence):
        read_settings(parse(text.replace(old, new)))


def test_a_setting_that_the_template_lost_is_a_bug(deployment: Deployment) -> None:
    text = render(deployment)[CONFIG].decode()
    with pytest.raises(AssertionError):
        validate(text.replace('{ string_value: "2" }', '{ string_value: "4" }'), deployment)


@pytest.mark.parametrize("first", ["parse", "grpc"])
def test_the_message_is_tritonclients_own(first: str) -> None:
    """Parsing does not import tritonclient.grpc, and works before and after somebody else did."""
    steps = {
        "parse": "from trition_repo_gen.repository.validate import parse; config = parse('name: \"m\"')",
        "grpc": "from tritonclient.grpc import model_config_pb2",
    }
    order = [first, *(name for name in steps if name != first)]
    check = "import sys; assert 'tritonclient' not in sys.modules; " if first == "parse" else ""
    program = f"{steps[order[0]]}; {check}{steps[order[1]]}; assert type(config) is model_config_pb2.ModelConfig"
    subprocess.run([sys.executable, "-c", program], check=True)
