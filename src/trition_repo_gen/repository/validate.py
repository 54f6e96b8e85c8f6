"""Parses a written config.pbtxt with Triton's own ModelConfig protobuf and compares it with the deployment."""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import text_format

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.repository.deployment import Deployment, StreamingKind
from trition_repo_gen.runtime.common.settings import Settings, SettingsError, StreamSettings


def parse(text: str) -> Any:
    """Return config.pbtxt's text as an `inference.ModelConfig` message.

    Raises:
        RepositoryError: Triton would refuse the text.
    """
    config = _model_config_module().ModelConfig()
    try:
        return text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise RepositoryError(f"Triton cannot read this config.pbtxt: {error}.") from None


def read_settings(config: Any) -> Settings:
    """Return the typed settings in a parsed config.pbtxt.

    Raises:
        RepositoryError: a parameter is missing, unknown or of the wrong type.
    """
    try:
        return Settings.from_parameters({key: value.string_value for key, value in config.parameters.items()})
    except SettingsError as error:
        raise RepositoryError(str(error)) from None


def validate(text: str, deployment: Deployment) -> None:
    """Check that Triton reads the deployment's values from `text`.

    Raises:
        RepositoryError: Triton would refuse the text.
        AssertionError: the template left out a setting, which is a bug.
    """
    config = parse(text)
    read = (config.name, config.max_batch_size, read_settings(config))
    meant = (deployment.model_name, deployment.max_batch_size, deployment.settings)
    assert read == meant, f"config.pbtxt says {read}, meant was {meant}"
    _check_images(config, deployment)


def validate_streaming_model(text: str, deployment: Deployment, kind: StreamingKind) -> None:
    """Check that Triton reads a streaming model's values from `text`."""
    config = parse(text)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    read = (config.name, config.model_transaction_policy.decoupled, StreamSettings.from_parameters(parameters))
    meant = (deployment.streaming_model_name(kind), True, deployment.stream_settings)
    assert read == meant, f"config.pbtxt says {read}, meant was {meant}"
    _check_images(config, deployment)


def _check_images(config: Any, deployment: Deployment) -> None:
    takes_images = any(tensor.name == "images" for tensor in config.input)
    assert takes_images == deployment.settings.multimodal, f"{config.name} takes images: {takes_images}"


def _model_config_module() -> ModuleType:
    """Return `tritonclient.grpc.model_config_pb2` without its package, whose import of grpc takes half a second.

    The protobuf runtime keeps one message class per name, so the package can still be imported later.
    """
    name = "tritonclient.grpc.model_config_pb2"
    if name in sys.modules:
        return sys.modules[name]
    package = find_spec("tritonclient")
    for folder in (package and package.submodule_search_locations) or ():
        spec = spec_from_file_location("_trgen_model_config_pb2", Path(folder) / "grpc" / "model_config_pb2.py")
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ModuleNotFoundError(name)
