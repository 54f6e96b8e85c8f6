"""The Python-backend model: Triton calls `initialize`, `execute` for each batch, and `finalize`."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..common.settings import Settings, SettingsError
from .admission import Admission
from .errors import why_unreadable
from .images import PictureLimits
from .metrics import Metrics
from .pending import PendingRequest
from .priority import Priorities, asked_priority
from .ranks import Ranks, RanksError
from .request_watcher import Watcher
from .requests import read_rows
from .send_queue import Outbox
from .stub_server import Host
from .triton import input_arrays, send_error


class TritonPythonModel:
    """Hands rows to the ranks and answers each request when its rows are done, in any order.

    `execute` returns before the answers exist. Requests that the ranks have no place for wait here and not in Triton's
    queue: `Admission` says why.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Start the ranks and wait until they take requests, so that a model that is READY answers."""
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
        self._patience = settings.queue_timeout or math.inf
        self._priorities = Priorities.of(settings)
        self._host = Host(self._name, int(args["model_version"]), self._ranks, self._priorities, self._patience)
        try:
            limits = self._ranks.start()
        except RanksError as error:
            self._host.give_up()
            self._ranks.stop()
            raise pb_utils.TritonModelException(str(error)) from None
        self._max_prompt_bytes = limits.max_prompt_bytes
        self._pictures = PictureLimits.of(settings)
        self._watcher = Watcher()
        self._outbox = Outbox()
        self._admission = Admission(limits.slots, settings.max_queue_size, self._metrics)
        self._log_request = self._log if settings.debug_mode else None
        self._host.let_in(self._admission, limits.max_prompt_bytes)

    def execute(self, requests: list[Any]) -> None:
        """Submit the requests' rows; answers go through each request's response sender."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                rows = read_rows(input_arrays(request), self._max_prompt_bytes, self._pictures)
                priority = self._priorities.check(asked_priority(request))
            except Exception as error:
                kind, sentence = why_unreadable(error)
                self._metrics.refused(kind)
                send_error(sender, kind, sentence)
                continue
            self._admission.enter(
                PendingRequest(
                    rows,
                    sender,
                    request.requested_output_names(),
                    priority=priority,
                    patience=self._patience,
                    timeout=request.timeout() / 1e6 or math.inf,
                    admission=self._admission,
                    ranks=self._ranks,
                    watcher=self._watcher,
                    lane=self._outbox.lane(),
                    log=self._log_request,
                )
            )

    def finalize(self) -> None:
        """End the ranks."""
        self._host.close()
        self._watcher.close()
        self._admission.close()
        self._ranks.stop()
        self._outbox.close()
        self._metrics.close()

    def _log(self, line: str) -> None:
        print(f"[trgen {self._name}] {line}", file=sys.stderr, flush=True)
