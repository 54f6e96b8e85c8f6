"""tritonserver's command line, and what is checked before it runs."""

import socket
from pathlib import Path

import pytest

from trition_repo_gen.errors import ServerError
from trition_repo_gen.server.command import (
    Endpoint,
    ServeOptions,
    check_ports,
    find_models,
    models_to_wait_for,
    parse_options,
    plan,
)


def options(*forwarded: str, repository: str = "repository") -> ServeOptions:
    return ServeOptions(repository=Path(repository), http_address="127.0.0.1", forwarded=forwarded)


def write_models(repository: Path, *names: str) -> Path:
    for name in names:
        (repository / name).mkdir(parents=True)
        (repository / name / "config.pbtxt").touch()
    return repository


def test_the_defaults() -> None:
    chosen = plan(ServeOptions(repository=Path("repository")))
    assert chosen.arguments == (
        "--model-repository=repository",
        "--http-address=0.0.0.0",
        "--http-port=8000",
        "--grpc-port=8001",
        "--grpc-address=0.0.0.0",
        "--metrics-port=8002",
        "--exit-timeout-secs=5",
        "--disable-auto-complete-config",
    )
    assert chosen.http is not None
    assert chosen.http.url == "127.0.0.1:8000"


def test_forwarded_options_come_last_and_win() -> None:
    forwarded = ("--http-port=9000", "--grpc-address", "::", "--exit-timeout-secs", "30", "--log-verbose=1")
    chosen = plan(options(*forwarded))
    assert chosen.arguments[-len(forwarded) :] == forwarded
    names = [argument.partition("=")[0] for argument in chosen.arguments]
    assert len(names) == len(set(names))
    assert chosen.http == Endpoint("127.0.0.1", 9000, "--triton-port")
    assert chosen.grpc == Endpoint("::", 8001, "--grpc-port")
    assert chosen.metrics == Endpoint("127.0.0.1", 8002, "--metrics-port")
    assert chosen.exit_timeout == 30


def test_what_is_turned_off_has_no_endpoint() -> None:
    chosen = plan(options("--allow-http=false", "--allow-grpc", "0", "--allow-metrics=False"))
    assert (chosen.http, chosen.grpc, chosen.metrics) == (None, None, None)


def test_a_forwarded_configuration_mode_stays() -> None:
    assert "--disable-auto-complete-config" not in plan(options("--strict-model-config=false")).arguments
    assert plan(options("--disable-auto-complete-config")).arguments.count("--disable-auto-complete-config") == 1


def test_a_forwarded_number_that_is_none() -> None:
    with pytest.raises(ServerError, match="--http-port is 'many'; write a whole number"):
        plan(options("--http-port=many"))


@pytest.mark.parametrize("port", ["70000", "65536", "0", "-5"])
def test_a_forwarded_port_that_is_none(port: str) -> None:
    for name in ("http", "grpc", "metrics"):
        with pytest.raises(ServerError, match=f"--{name}-port is '{port}'; write a port from 1 to 65535"):
            plan(options(f"--{name}-port={port}"))
        assert plan(options(f"--{name}-port={port}", f"--allow-{name}=false")).arguments[-2] == f"--{name}-port={port}"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0", "127.0.0.1:1"),
        ("::", "[::1]:1"),
        ("::1", "[::1]:1"),
        ("10.0.0.7", "10.0.0.7:1"),
        ("host", "host:1"),
    ],
)
def test_the_address_to_connect_to(address: str, url: str) -> None:
    assert Endpoint(address, 1, "--flag").url == url


def test_options_are_read_as_tritonserver_reads_them() -> None:
    arguments = ("--a=1", "--b", "2", "--flag", "--a", "3", "--empty=", "--end")
    expected = {"a": ["1", "3"], "b": ["2"], "flag": ["true"], "empty": [""], "end": ["true"]}
    assert parse_options(arguments) == expected


@pytest.mark.parametrize("arguments", [("stray",), ("--a=1", "stray"), ("--a", "1", "stray")])
def test_stray_arguments(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ServerError, match="takes no argument 'stray'; write options such as"):
        parse_options(arguments)


def test_models_are_the_folders_with_a_configuration(tmp_path: Path) -> None:
    write_models(tmp_path, "b", "a", ".half-written")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").touch()
    assert find_models(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(("folder", "character"), [("my models", "' '"), ("modèles", "'è'")])
def test_a_repository_whose_path_triton_cannot_read(tmp_path: Path, folder: str, character: str) -> None:
    (tmp_path / folder / "a").mkdir(parents=True)
    (tmp_path / folder / "a" / "config.pbtxt").touch()
    with pytest.raises(ServerError, match=f"has {character}, which Triton's Python backend cannot read; move the"):
        find_models(tmp_path / folder)


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_a_repository_without_models(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServerError, match=f"{tmp_path / name}' has no model|no model repository '{tmp_path / name}'"):
        find_models(tmp_path / name)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ((), ("a", "b")),
        (("--model-control-mode=poll",), ("a", "b")),
        (("--model-control-mode=explicit",), ()),
        (("--model-control-mode=explicit", "--load-model", "b"), ("b",)),
        (("--model-control-mode", "explicit", "--load-model=*"), ("a", "b")),
        (("--model-repository={more}",), ("a", "b", "c")),
    ],
)
def test_the_models_to_wait_for(tmp_path: Path, forwarded: tuple[str, ...], expected: tuple[str, ...]) -> None:
    repository = write_models(tmp_path / "repository", "a", "b")
    more = write_models(tmp_path / "more", "c")
    forwarded = tuple(argument.format(more=more) for argument in forwarded)
    chosen = plan(ServeOptions(repository=repository, forwarded=forwarded))
    assert models_to_wait_for(chosen) == expected
    assert f"--model-repository={repository}" in chosen.arguments


def ports_of(http: int, address: str = "127.0.0.1", *forwarded: str) -> ServeOptions:
    with socket.create_server(("127.0.0.1", 0)) as grpc, socket.create_server(("127.0.0.1", 0)) as metrics:
        return ServeOptions(
            repository=Path("repository"),
            http_address=address,
            http_port=http,
            grpc_port=grpc.getsockname()[1],
            metrics_port=metrics.getsockname()[1],
            forwarded=forwarded,
        )


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_in_use(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"^Port {port} of {address} is in use; .* --triton-port"):
            check_ports(plan(ports_of(port, address)))
        check_ports(plan(ports_of(port, address, "--reuse-http-port=true")))
        check_ports(plan(ports_of(port, address, "--allow-http=false")))
    check_ports(plan(ports_of(port, address)))


def test_one_port_for_two() -> None:
    with pytest.raises(
        ServerError, match=r"^Port 8001 is given for both --triton-port and --grpc-port; write two ports"
    ):
        check_ports(plan(ServeOptions(repository=Path("r"), http_address="127.0.0.1", http_port=8001)))


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("192.0.2.1", "'192.0.2.1' is not this machine's"),
        ("no such host", "'no such host' is unknown"),
        ("a..b", r"'a\.\.b' is unknown; write one such as"),
        ("a" * 64, "'a{64}' is unknown; write one such as"),
    ],
)
def test_an_address_that_cannot_be_bound(address: str, sentence: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=sentence):
        check_ports(plan(ports_of(port, address)))
