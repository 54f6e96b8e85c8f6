"""The Python-backend model: Triton calls `initialize`, `execute` for each batch, and `finalize`."""

import json
import math
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..common import log_lines
from ..common.settings import Settings, SettingsError
from .admission import Admission
from .errors import why_rejected
from .images import ImageLimits
from .metrics import Metrics
from .pending import PendingRequest
from .priority import Priorities, asked_priority
from .ranks import Ranks, RanksError
from .request_watcher import RequestWatcher
from .requests import read_sequences
from .send_queue import SendQueues
from .stub_server import StubServer
from .triton import input_arrays, send_error


class TritonPythonModel:
    """Submits sequences to the ranks, and answers each request when its sequences are done, in any order.

    `execute` returns before the answers exist. Requests without a free slot wait in this process, not in Triton's
    queue; `Admission` explains why.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Start the ranks and wait until they take sequences: Triton then reports the model as ready."""
        config = json.loads(args["model_config"])
        self._name = config["name"]
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        script = Path(args["model_repository"], args["model_version"], "model.py")
        try:
            settings = Settings.from_parameters(parameters)
        except SettingsError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._metrics = Metrics(self._name, args["model_version"])
        self._ranks = Ranks(settings, script, self._log, self._metrics)
        self._queue_timeout = settings.queue_timeout or math.inf
        self._priorities = Priorities.of(settings)
        self._server = StubServer(
            self._name, int(args["model_version"]), self._ranks, self._priorities, self._queue_timeout
        )
        try:
            limits = self._ranks.start()
        except RanksError as error:
            self._ranks.stop()
            self._server.mark_failed()
            raise pb_utils.TritonModelException(str(error)) from None
        self._prompt_limit = limits.prompt_limit
        self._images = ImageLimits.of(settings)
        self._watcher = RequestWatcher()
        self._send_queues = SendQueues()
        self._admission = Admission(limits.slots, settings.max_queue_size, self._metrics)
        self._log_request = self._log if settings.debug_mode else None
        self._server.open(self._admission, limits.prompt_limit)

    def execute(self, requests: list[Any]) -> None:
        """Submit the sequences of the requests. Answers go through the response sender of each request."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                sequences = read_sequences(input_arrays(request), self._prompt_limit, self._images)
                priority = self._priorities.check(asked_priority(request))
            except Exception as error:
                kind, sentence = why_rejected(error)
                self._metrics.refused(kind)
                send_error(sender, kind, sentence)
                continue
            self._admission.enter(
                PendingRequest(
                    sequences,
                    sender,
                    request.requested_output_names(),
                    priority=priority,
                    queue_timeout=self._queue_timeout,
                    timeout=request.timeout() / 1e6 or math.inf,
                    admission=self._admission,
                    ranks=self._ranks,
                    watcher=self._watcher,
                    send_queue=self._send_queues.send_queue(),
                    log=self._log_request,
                )
            )

    def finalize(self) -> None:
        """Reject waiting requests, end the ranks and the threads."""
        self._server.close()
        self._watcher.close()
        self._admission.close()
        self._ranks.stop()
        self._send_queues.close()
        self._metrics.close()

    def _log(self, line: str) -> None:
        log_lines.write(self._name, line)
