"""`trgen serve` with stock tritonserver and models without torch: it starts, it answers, nothing is left of it."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from trition_repo_gen.errors import ServerError
from trition_repo_gen.server import ServerExitedError, free_ports, running_server

TRGEN = str(Path(sys.executable).with_name("trgen"))

CONFIG = """
backend: "python"
max_batch_size: 4
input [ { name: "prompts", data_type: TYPE_STRING, dims: [ 1 ] } ]
output [ { name: "sentences", data_type: TYPE_STRING, dims: [ 1 ] } ]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""

# A prompt may name a FIFO: its answer comes once somebody has opened that to write.
ANSWERS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        print("[trgen answers] rank 0: loading weights 100 %", flush=True)

    def execute(self, requests):
        responses = []
        for request in requests:
            prompts = pb_utils.get_input_tensor_by_name(request, "prompts").as_numpy()
            if prompts[0, 0].startswith(b"/"):
                print("working on it", flush=True)
                open(prompts[0, 0]).close()
            answers = np.array([[prompt.upper()] for prompt in prompts[:, 0]], dtype=object)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("sentences", answers)]))
        return responses
"""

# Its child ignores SIGTERM and has a session of its own, as stubborn as a rank can be.
NEVER_LOADS = """
import subprocess
import sys

CHILD = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started", flush=True)
time.sleep(600)
'''

class TritonPythonModel:
    def initialize(self, args):
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, start_new_session=True)
        child.stdout.readline()
        print("[trgen hangs] rank 0: loading weights 1 %", flush=True)
        child.wait()
"""

FAILS = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("there is no checkpoint at the end of the rainbow")
"""

# tritonserver aborts like this, now and then, where two Python models begin to load at once.
ABORTS_ONCE = """
import os, pathlib, signal, time

class TritonPythonModel:
    def initialize(self, args):
        aborted = pathlib.Path(args["model_repository"], "aborted")
        if not aborted.exists():
            aborted.touch()
            print("what():  boost::interprocess::lock_exception", flush=True)
            os.kill(os.getppid(), signal.SIGABRT)
            time.sleep(60)
"""


def write_model(repository: Path, name: str, code: str) -> Path:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return repository


class Trgen:
    """A `trgen serve` process whose descendants can be told from all others; without the REST service unless asked."""

    def __init__(self, repository: Path, *arguments: str, stderr: int = subprocess.PIPE, rest: bool = False) -> None:
        self.mark = f"TRGEN_TEST={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        self.http, self.grpc, self.metrics, self.rest = free_ports(4)
        command = [TRGEN, "serve", "--model-repository", str(repository), "-tha", "127.0.0.1", "-tp", str(self.http)]
        command += ["--grpc-port", str(self.grpc), "--metrics-port", str(self.metrics)]
        command += ["-sa", "127.0.0.1", "-sp", str(self.rest)] if rest else ["--no-rest"]
        command += arguments
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | {name: value}
        )

    def until(self, text: str, stream: str = "stdout") -> str:
        """Read lines until one has `text`; return all that was read."""
        read = ""
        lines: Iterator[str] = getattr(self.process, stream)
        for line in lines:
            read += line
            if text in line:
                return read
        raise AssertionError(f"{text!r} never came:\n{read}")

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def descendants(self) -> list[int]:
        """The living processes that inherited this one's environment; not this one."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return [pid for pid in found if pid != self.process.pid]

    def shared_memory(self) -> list[Path]:
        """The regions between tritonserver and its stubs."""
        maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in self.descendants())
        return [region for region in Path("/dev/shm").iterdir() if str(region) in maps]

    def kill_all(self) -> None:
        for pid in [self.process.pid, *self.descendants()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


Start = Callable[..., Trgen]


@pytest.fixture
def serve() -> Iterator[Start]:
    """Start `trgen serve`; nothing of it is left after the test."""
    started: list[Trgen] = []

    def start(repository: Path, *arguments: str, **options: Any) -> Trgen:
        started.append(Trgen(repository, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill_all()


def ask(port: int, prompt: str, client: Any = tritonclient.http) -> str:
    tensor = client.InferInput("prompts", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[prompt]], dtype=object))
    with client.InferenceServerClient(f"127.0.0.1:{port}") as connection:
        answer: bytes = connection.infer("answers", [tensor]).as_numpy("sentences")[0, 0]
        return answer.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serves_until_a_signal_comes(serve: Start, tmp_path: Path, number: signal.Signals) -> None:
    trgen = serve(write_model(tmp_path, "answers", ANSWERS))
    ready = trgen.until("query:")
    assert f"ready: http://127.0.0.1:{trgen.http} models: answers\n" in ready
    assert f"trgen query -u 127.0.0.1:{trgen.http} -mn answers" in ready
    assert ask(trgen.http, "banana") == "BANANA"
    assert ask(trgen.grpc, "banana", tritonclient.grpc) == "BANANA"
    assert len(trgen.descendants()) >= 2  # tritonserver and the stub: the search below sees them

    trgen.process.send_signal(number)
    code, _, log = trgen.finish()
    assert code == 0, log
    assert trgen.descendants() == []
    assert "[trgen answers] rank 0: loading weights 100 %" in log


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_models_load_leaves_nothing(
    serve: Start, tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    trgen = serve(write_model(tmp_path, "hangs", NEVER_LOADS))
    trgen.until("loading weights 1 %", "stderr")
    assert len(trgen.descendants()) >= 3  # tritonserver, the stub, its child
    memory = trgen.shared_memory()
    assert memory

    trgen.process.send_signal(number)
    code, out, log = trgen.finish()
    assert code == expected, log
    assert trgen.descendants() == []
    assert "ready" not in out
    assert not [region for region in memory if region.exists()]


@pytest.mark.parametrize("moment", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0])
def test_a_signal_at_any_moment_leaves_nothing(serve: Start, tmp_path: Path, moment: float) -> None:
    trgen = serve(write_model(tmp_path, "answers", ANSWERS), rest=True)
    time.sleep(moment)  # not a synchronisation: the moment is what is tested
    trgen.process.send_signal(signal.SIGTERM)
    trgen.finish()
    assert trgen.descendants() == []


def test_a_request_in_flight_is_answered_before_the_end(serve: Start, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    trgen = serve(write_model(tmp_path / "repository", "answers", ANSWERS))
    trgen.until("query:")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, trgen.http, str(go))
        trgen.until("working on it", "stderr")
        trgen.process.terminate()
        trgen.until("Found 1 HTTP service connections", "stderr")  # tritonserver waits for it
        go.open("w").close()
        assert answer.result() == str(go).upper()
    assert trgen.finish()[0] == 0


def test_a_model_that_fails_to_load_says_why(serve: Start, tmp_path: Path) -> None:
    trgen = serve(write_model(tmp_path, "fails", FAILS))
    code, out, log = trgen.finish()
    assert code == 1
    assert out == ""
    summary = log.partition("tritonserver exited with code 1 before model fails was ready")[2]
    assert "no checkpoint at the end of the rainbow" in summary
    assert "CudaDriverHelper" not in summary
    assert trgen.descendants() == []


@pytest.mark.parametrize("flag", ["-tp", "--grpc-port", "--metrics-port"])
def test_a_port_in_use_is_refused_before_anything_starts(serve: Start, tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = serve(write_model(tmp_path, "answers", ANSWERS), flag, port).finish()
    assert code == 2
    assert port in err
    assert "in use" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("make", [lambda path: path / "nowhere", lambda path: path])
def test_a_repository_without_models_is_refused(serve: Start, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    code, _, err = serve(make(tmp_path)).finish()
    assert code == 2
    assert str(tmp_path) in err
    assert len(err.splitlines()) == 1


def test_what_stands_after_the_dashes_goes_to_tritonserver_and_wins(serve: Start, tmp_path: Path) -> None:
    write_model(tmp_path, "answers", ANSWERS)
    write_model(tmp_path, "fails", FAILS)
    port = free_ports(1)[0]
    forwarded = [f"--http-port={port}", "--model-control-mode", "explicit", "--load-model", "answers", "--id=its-name"]
    trgen = serve(tmp_path, "--", *forwarded)
    assert f"ready: http://127.0.0.1:{port} models: answers\n" in trgen.until("query:")
    assert ask(port, "kiwi") == "KIWI"
    trgen.process.terminate()
    code, _, log = trgen.finish()
    assert code == 0
    assert "its-name" in log


def test_the_rest_service_runs_beside(serve: Start, tmp_path: Path) -> None:
    trgen = serve(write_model(tmp_path, "answers", ANSWERS), rest=True)
    assert f"rest: http://127.0.0.1:{trgen.rest}\n" in trgen.until("query:")
    models = urllib.request.urlopen(f"http://127.0.0.1:{trgen.rest}/v1/models")
    assert json.load(models)["data"] == []  # this one is of another kind
    trgen.process.terminate()
    code, _, log = trgen.finish()
    assert code == 0, log
    assert trgen.descendants() == []


def test_the_rest_service_says_while_models_load_that_they_do(serve: Start, tmp_path: Path) -> None:
    trgen = serve(write_model(tmp_path, "hangs", NEVER_LOADS), rest=True)
    trgen.until("rest: ", "stderr")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://127.0.0.1:{trgen.rest}/v1/health")
    trgen.process.terminate()
    assert trgen.finish()[0] == 143
    assert trgen.descendants() == []


def test_a_dead_rest_service_is_reported_and_tritonserver_serves_on(serve: Start, tmp_path: Path) -> None:
    trgen = serve(write_model(tmp_path, "answers", ANSWERS), rest=True)
    trgen.until("query:")
    (rest,) = (pid for pid in trgen.descendants() if b"rest" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
    os.kill(rest, signal.SIGKILL)
    trgen.until("The REST service has ended with code 137", "stderr")
    assert ask(trgen.http, "plum") == "PLUM"
    trgen.process.terminate()
    assert trgen.finish()[0] == 0
    assert trgen.descendants() == []


@pytest.mark.parametrize("flags", [("--no-rest",), ("--server_port", "0")])
def test_the_rest_service_can_be_turned_off(serve: Start, tmp_path: Path, flags: tuple[str, ...]) -> None:
    trgen = serve(write_model(tmp_path, "answers", ANSWERS), *flags)
    assert "rest:" not in trgen.until("query:")
    trgen.process.terminate()
    assert trgen.finish()[0] == 0


def test_the_rest_services_port_and_keys_are_checked_before_anything_starts(serve: Start, tmp_path: Path) -> None:
    repository = write_model(tmp_path, "answers", ANSWERS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = serve(repository, "--server-port", port, rest=True).finish()
    assert (code, err) == (2, f"trgen: Port {port} of 127.0.0.1 is in use; write another one with --server-port.\n")
    code, _, err = serve(repository, "--api-key-file", "/nowhere", rest=True).finish()
    assert (code, len(err.splitlines())) == (2, 1)
    code, _, err = serve(repository, "--", "--allow-grpc=false", rest=True).finish()
    assert (code, "over gRPC, which is turned off" in err) == (2, True)


def test_nothing_survives_a_killed_trgen(serve: Start, tmp_path: Path) -> None:
    trgen = serve(write_model(tmp_path, "answers", ANSWERS), rest=True)
    trgen.until("query:")
    handles = [os.pidfd_open(pid) for pid in trgen.descendants()]
    trgen.process.kill()
    try:
        for handle in handles:
            assert select.select([handle], [], [], 60)[0], "a process lives on"
    finally:
        for handle in handles:
            os.close(handle)


def test_a_killed_tritonserver_ends_trgen(serve: Start, tmp_path: Path) -> None:
    trgen = serve(write_model(tmp_path, "answers", ANSWERS), rest=True)
    trgen.until("query:")
    (server,) = (pid for pid in trgen.descendants() if Path(f"/proc/{pid}/comm").read_text() == "tritonserver\n")
    os.kill(server, signal.SIGKILL)
    code, _, log = trgen.finish()
    assert code == 137
    assert "tritonserver exited with code 137" in log
    assert trgen.descendants() == []


def test_a_terminal_shows_how_far_loading_is(serve: Start, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    trgen = serve(write_model(tmp_path, "hangs", NEVER_LOADS), stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"hangs: rank 0: loading weights 1 %" not in shown:  # the last line; the log's has brackets
        shown += os.read(ours, 4096)
    trgen.process.terminate()
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while os.read(ours, 4096):
            pass
    os.close(ours)
    assert trgen.finish()[0] == 143


def test_the_python_api(tmp_path: Path) -> None:
    http, grpc, metrics = free_ports(3)
    lines: list[str] = []
    repository = write_model(tmp_path, "answers", ANSWERS)
    with running_server(
        repository, http_port=http, grpc_port=grpc, metrics_port=metrics, on_line=lines.append
    ) as server:
        assert server.models == ("answers",)
        assert server.http_url == f"127.0.0.1:{http}"
        assert server.grpc_url == f"127.0.0.1:{grpc}"
        assert server.exit_code() is None
        assert ask(http, "plum") == "PLUM"
        assert server.stop() == 0
    assert server.exit_code() == 0
    assert "[trgen answers] rank 0: loading weights 100 %" in lines
    assert set(server.log()) <= set(lines)


def test_the_python_api_starts_a_server_again_that_lost_a_race_of_its_own(tmp_path: Path) -> None:
    http, grpc, metrics = free_ports(3)
    repository = write_model(tmp_path, "again", ABORTS_ONCE)
    with running_server(repository, http_port=http, grpc_port=grpc, metrics_port=metrics) as server:
        assert (repository / "again" / "aborted").exists()
        assert server.exit_code() is None
        assert not server.lost_its_race


def test_the_python_api_raises_when_models_do_not_load(tmp_path: Path) -> None:
    http, grpc, metrics = free_ports(3)
    ports: dict[str, Any] = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    fails = write_model(tmp_path / "fails", "fails", FAILS)
    with pytest.raises(ServerExitedError, match="end of the rainbow"), running_server(fails, **ports):
        pass
    hangs = write_model(tmp_path / "hangs", "hangs", NEVER_LOADS)
    waits = pytest.raises(ServerError, match="model hangs was not ready after 1 s")
    with waits, running_server(hangs, ready_within=1, **ports):
        pass


def test_a_program_that_cannot_run(serve: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tritonserver that is not the wheel's takes the python3 that is first on PATH.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    program = tmp_path / "tritonserver"
    program.write_bytes(b"\x7fELF but not really")
    program.chmod(0o755)
    trgen = serve(write_model(tmp_path / "repository", "answers", ANSWERS), "--tritonserver", str(program))
    code, _, log = trgen.finish()
    assert code == 1
    assert f"error: {program} cannot be started (Exec format error)" in log
