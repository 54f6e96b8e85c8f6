"""Positional checkpoints, files of flags, and the refusals of what cannot be read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trition_repo_gen import cli, server
from trition_repo_gen.repository import build as build_module
from trition_repo_gen.repository.options import BuildOptions
from trition_repo_gen.server import RestProcess, ServeOptions


class _ParsedError(Exception):
    pass


Options = Callable[..., BuildOptions]


def trgen(*words: object) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["trgen", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    return int(exit_.value.code or 0)


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Options:
    """Return a function that gives the build options which a command line becomes."""

    def parse(*words: object) -> BuildOptions:
        taken: list[BuildOptions] = []

        def take(options: BuildOptions, report: object) -> None:
            taken.append(options)
            raise _ParsedError

        monkeypatch.setattr(build_module, "build_repository", take)
        monkeypatch.setattr(sys, "argv", ["trgen", *map(str, words)])
        with pytest.raises(_ParsedError):
            cli.main()
        return taken[0]

    return parse


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a file of flags."""

    def write(text: str) -> Path:
        path = tmp_path / "trgen.yaml"
        path.write_text(text)
        return path

    return write


class TestCheckpoint:
    def test_a_positional_one(self, options: Options) -> None:
        assert options("build", "a_b", "-tmn", "m").any_checkpoint == Path("a_b")
        assert options("build", "-tmn", "m", "--", "-a_b").any_checkpoint == Path("-a_b")

    @pytest.mark.parametrize(
        ("words", "checkpoint", "forwarded"),
        [
            ("there -tmn m", Path("there"), ()),
            ("there -tmn m -- --log-verbose 1", Path("there"), ("--log-verbose", "1")),
            ("-mc there -tmn m -- --log-verbose 1", None, ("--log-verbose", "1")),
        ],
    )
    def test_deploy_takes_one_beside_options_for_tritonserver(
        self,
        monkeypatch: pytest.MonkeyPatch,
        options: Options,
        words: str,
        checkpoint: Path | None,
        forwarded: tuple[str, ...],
    ) -> None:
        checked: list[ServeOptions] = []

        def check(
            options: ServeOptions, *, tritonserver: str | None = None, rest_process: RestProcess | None = None
        ) -> None:
            checked.append(options)

        monkeypatch.setattr(server, "check", check)
        assert options("deploy", *words.split()).any_checkpoint == checkpoint
        assert [each.forwarded for each in checked] == [forwarded]


class TestOptionsThatWereGiven:
    def test_also_with_their_default(self, options: Options) -> None:
        given = options("build", "-tmn", "m", "--max-requests", 256, "--no-prefix-caching").given
        assert given == {"model_name", "max_requests", "enable_prefix_caching"}

    def test_as_if_not_given(self) -> None:
        options = BuildOptions(model_name="m", max_requests=3, force=True)
        assert options.without("max_requests") == BuildOptions(model_name="m", force=True)
        assert options.without("max_requests").given == {"model_name", "force"}
        assert options.with_changes(dry_run=True).given == {"model_name", "max_requests", "force", "dry_run"}


class TestConfigFile:
    def test_its_keys_are_the_long_names(self, options: Options, config: Callable[[str], Path]) -> None:
        path = config(
            "triton_model_name: 123\ntensor-parallel-size: 2\nnum_nodes: 2\nsequence-parallel: true\nfused_layers: on\n"
            "kv-cache-gib: 1.5\nallow-image-urls: [a.org, '*.b.org']\nenable_prefix_caching: false\ncheckpoint: /c\n"
            "tokenizer:\n"
        )
        assert options("build", "--config", path) == BuildOptions(
            model_name="123",
            tensor_parallel_size=2,
            num_nodes=2,
            sequence_parallel=True,
            fused_layers="on",
            kv_cache_gib=1.5,
            allow_image_urls=["a.org", "*.b.org"],
            any_checkpoint=Path("/c"),
        )

    def test_flags_win(self, options: Options, config: Callable[[str], Path]) -> None:
        path = config("model-name: theirs\nmax-requests: 3\nenable-prefix-caching: true\n")
        parsed = options("build", "-tmn", "mine", "--no-prefix-caching", "--config", path)
        assert parsed == BuildOptions(model_name="mine", max_requests=3)

    def test_an_empty_one(self, options: Options, config: Callable[[str], Path]) -> None:
        assert options("build", "--config", config("# nothing\n"), "-tmn", "m") == BuildOptions(model_name="m")

    def test_of_serve(self, monkeypatch: pytest.MonkeyPatch, config: Callable[[str], Path]) -> None:
        served: list[ServeOptions] = []

        def serve(
            options: ServeOptions, *, tritonserver: str | None = None, rest_process: RestProcess | None = None
        ) -> int:
            served.append(options)
            return 0

        monkeypatch.setattr(server, "serve", serve)
        path = config("model-repository: there\ntriton_port: 9000\nno-rest: true\n")
        assert CliRunner().invoke(cli.app, ["serve", "--config", str(path), "--grpc-port", "9001"]).exit_code == 0
        assert served == [ServeOptions(repository=Path("there"), http_port=9000, grpc_port=9001)]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("tensor-parallel: 2", "has the key 'tensor-parallel', which is no flag of trgen build; write tensor-par"),
            ("config: other.yaml", "has the key 'config', which is no flag of trgen build"),
            ("model-name: a\ntriton_model_name: b", "has model-name twice; remove one of them"),
            ("dry-run: 1", "has dry-run: 1; it is a switch, write true or false"),
            ("max-requests: [1, 2]", "has max-requests: [1, 2]; write one value"),
            ("- a\n- b", "has no keys; write lines like model-name: llama"),
            ("a: [", "is no YAML file (while parsing"),
        ],
    )
    def test_what_is_refused(
        self, config: Callable[[str], Path], capsys: pytest.CaptureFixture[str], text: str, sentence: str
    ) -> None:
        path = config(text)
        assert trgen("build", "--config", path, "-tmn", "m") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"trgen: --config {path} ")
        assert sentence in error
        assert error.count("\n") == 1

    def test_a_value_is_checked_as_the_flags_are(
        self, config: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert trgen("build", "--config", config("max-requests: 0"), "-tmn", "m") == 2
        assert "Invalid value for '--max-requests': 0 is out of range; write at least 1." in capsys.readouterr().err

    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert trgen("build", "--config", "/nowhere.yaml", "-tmn", "m") == 2
        assert capsys.readouterr().err.startswith("trgen: --config /nowhere.yaml cannot be read: No such file")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("build -tmn m c -tp 2", "-tp is no option of trgen build; write -tps (--tensor-parallel-size)."),
        ("build -tmn m c -tp=2", "-tp is no option of trgen build; write -tps (--tensor-parallel-size)."),
        ("build -tmn m c -nlfp 2", "write -nlfps (--num-layers-in-first-pipeline-stage)."),
        ("build -tmn m c -xyz", "-xyz is no option of trgen build; trgen build --help lists the options."),
        ("serve -tr 1", "-tr is no option of trgen serve; write -trp (--triton-port)."),
        ("query -mn m -mo 3", "-mo is no option of trgen query; write -mol (--max-output-len)."),
        ("build -tmn m c --tensor-paralel-size 2", "No such option: --tensor-paralel-size (Possible options: "),
    ],
)
def test_a_flag_that_there_is_not(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trgen(*words.split()) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("-tps 0", "0 is out of range; write at least 1."),
        ("--num-gpus 0", "0 is out of range; write at least 1."),
        ("--gpu-memory-utilization 1.5", "1.5 is out of range; write at most 1.0."),
        ("--kv-cache-gib nan", "nan is out of range; write at most 2147483647."),
    ],
)
def test_a_number_out_of_range(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trgen("build", "-tmn", "m", "c", *words.split()) == 2
    assert sentence in capsys.readouterr().err


def test_numbers_that_choose_are_the_defaults(options: Options) -> None:
    parsed: Any = options("build", "-tmn", "m", "c")
    assert (parsed.num_gpus, parsed.kv_cache_fraction, parsed.default_priority) == (0, 0.0, 0)
