"""Exits with 0 if tritonserver and every model that it serves answer: the container's health check.

    python healthcheck.py [HOST:PORT]

Triton calls a model ready even when the process behind it has died, so every model is asked for one token, by `infer`:
`generate` answers every error with 400. Only a server error counts against it: a busy model, which does not answer in
time or refuses for want of room in its queue, is alive, and a model of another kind answers that it does not know such
a request. A model that streams cannot be asked by `infer`; of what it answers to `generate_stream`, only Triton's
sentence that its process is gone counts.
"""

import http.client
import json
import sys
from urllib.parse import quote

from trition_repo_gen.runtime.common.wire import BUSY_MARK

ANSWER_SECONDS = 5.0
_INFER = json.dumps(
    {
        "inputs": [
            {"name": "prompts", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]},
            {"name": "max_length", "shape": [1, 1], "datatype": "INT64", "data": [1]},
        ]
    }
)
_GENERATE = json.dumps({"prompts": "a", "max_length": 1})
_NO_PROCESS = "is not healthy"


def main() -> int:
    """Ask; say on standard error what is wrong."""
    url = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
    try:
        status, text = ask(url, "GET", "/v2/health/ready")
        if status != http.client.OK:
            return _sick("tritonserver", text)
        _, text = ask(url, "POST", "/v2/repository/index", '{"ready": true}')
    except (OSError, http.client.HTTPException) as error:
        return _sick("tritonserver", repr(error))
    for model in json.loads(text):
        path = f"/v2/models/{quote(model['name'], safe='')}"
        try:
            status, text = ask(url, "POST", f"{path}/infer", _INFER)
            sick = status >= http.client.INTERNAL_SERVER_ERROR and BUSY_MARK not in text
            if status == http.client.NOT_IMPLEMENTED:
                _, text = ask(url, "POST", f"{path}/generate_stream", _GENERATE)
                sick = _NO_PROCESS in text
        except TimeoutError:
            continue
        if sick:
            return _sick(model["name"], text)
    return 0


def ask(url: str, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    connection = http.client.HTTPConnection(url, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def _sick(name: str, reason: str) -> int:
    print(f"{name}: {reason.strip()}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
