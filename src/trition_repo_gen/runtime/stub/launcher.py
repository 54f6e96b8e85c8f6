"""Starts and stops this node's torchrun, and reads the logs of its ranks."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from ..common.parent_death import GRANDPARENT_VARIABLE, PARENT_VARIABLE
from ..common.protocol import FRONTEND_VARIABLE, REMOTE_FRONTEND_VARIABLE, RUN_FOLDER_VARIABLE, SETTINGS_VARIABLE
from ..common.settings import Settings

_STOP_SECONDS = 3
_LAST_LINES = 20


class LaunchError(RuntimeError):
    """torchrun cannot be started; the message is one sentence for the operator."""


class Launcher:
    """The torchrun process of this node.

    Call `start` on a thread that lives as long as the ranks should: the kernel ends them when that thread ends.

    Args:
        settings: the deployment.
        script: the program of a rank, model.py.
    """

    def __init__(self, settings: Settings, script: Path):
        self._settings = settings
        self._script = script
        self.folder = Path(tempfile.mkdtemp(prefix="trgen-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The ZeroMQ endpoint at which the stub listens for the ranks of this node."""
        return f"ipc://{self.folder}/frontend"

    def start(self, remote_endpoint: str | None) -> int:
        """Start torchrun; return its process id.

        Args:
            remote_endpoint: the ZeroMQ endpoint for the ranks of other nodes, None without other nodes.

        Raises:
            LaunchError: the interpreter that RANK_PYTHON names cannot be run.
        """
        environment = self._environment(remote_endpoint)
        python = shutil.which(self._settings.rank_python, path=environment.get("PATH"))
        if python is None:
            raise LaunchError(
                f"RANK_PYTHON is {self._settings.rank_python!r}, which cannot be run; "
                "write the path of the Python that has Megatron into config.pbtxt."
            )
        with (self.folder / "torchrun.log").open("wb") as log:
            output = None if self._settings.debug_mode else log
            self._process = subprocess.Popen(
                [python, str(self._script), *self._arguments()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self._process.pid

    def stop(self) -> None:
        """End torchrun and its ranks, wait for torchrun's end, and remove the run folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()  # its ranks die with it: see parent_death.py
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def exit_status(self) -> str:
        """Return how torchrun ended, as the end of a sentence: "exited with code 1"."""
        code = self._process.wait() if self._process is not None else 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    def last_lines(self, local_rank: int | None, attempt: int = 0) -> list[str]:
        """Return the last lines of a rank's standard error, or of torchrun's for `None`."""
        if local_rank is None:
            return _tail(self.folder / "torchrun.log")
        return _tail(*self.folder.glob(f"logs/*/attempt_{attempt}/{local_rank}/stderr.log"))

    def newest_lines(self) -> list[str]:
        """Return the last lines that any rank wrote to its standard error."""
        logs = [log for log in self.folder.glob("logs/*/attempt_*/*/stderr.log") if log.stat().st_size]
        return _tail(*sorted(logs, key=lambda log: log.stat().st_mtime))

    def _arguments(self) -> list[str]:
        settings = self._settings
        arguments = {
            "--nnodes": str(settings.num_nodes),
            "--nproc-per-node": str(settings.num_gpus),
            "--rdzv-backend": "c10d",
            "--rdzv-endpoint": settings.rendezvous or "127.0.0.1:0",
            "--rdzv-id": self.folder.name if settings.num_nodes == 1 else "trgen",
            "--max-restarts": str(settings.max_restarts),
            "--monitor-interval": "0.1",
            "--log-dir": str(self.folder / "logs"),
            "--redirects": "3",
        }
        if settings.num_nodes == 1:
            arguments["--local-addr"] = "127.0.0.1"
        if settings.debug_mode:
            arguments["--tee"] = "3"
        return [part for pair in arguments.items() for part in pair]

    def _environment(self, remote_endpoint: str | None) -> dict[str, str]:
        environment = dict(os.environ)
        # Variables that point Triton's stub to its own Python break the ranks' Python. The server that changed them
        # keeps their original values (server/prepare.py).
        for name in ("PATH", "LD_LIBRARY_PATH"):
            if (former := environment.get(f"TRGEN_ORIGINAL_{name}")) is not None:
                environment[name] = former
        for name in ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"):
            environment.pop(name, None)
        environment |= {
            FRONTEND_VARIABLE: self.endpoint,
            SETTINGS_VARIABLE: json.dumps(self._settings.to_parameters()),
            RUN_FOLDER_VARIABLE: str(self.folder),
            PARENT_VARIABLE: str(os.getpid()),
            GRANDPARENT_VARIABLE: str(os.getppid()),
        }
        # Spinning OpenMP threads double the speed of a CPU engine, but long spins stall engines that share their cores
        # (bench/NOTES.md). The unit is GNU OpenMP's: iterations.
        environment.setdefault("GOMP_SPINCOUNT", "1000")
        if remote_endpoint is not None:
            environment[REMOTE_FRONTEND_VARIABLE] = remote_endpoint
        else:
            # The host name need not resolve, and all traffic stays on this host.
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
            environment.setdefault("NCCL_SOCKET_IFNAME", "lo")
        return environment


def _tail(*logs: Path) -> list[str]:
    """Return the last lines of the last of these files, none if it does not exist."""
    if not logs or not logs[-1].exists():
        return []
    return logs[-1].read_text(errors="replace").splitlines()[-_LAST_LINES:]
