"""The paths of TensorFlow Serving's REST API over HTTP: one model, one version.

- GET /v1/models/NAME tells that it is there.
- GET /v1/models/NAME/metadata tells its signatures.
- POST /v1/models/NAME:predict answers a request (`served.py` has its forms).
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rest.served import RequestError, Served

MOST_BYTES = 256 << 20  # of a request
VERSION = "1"


class Server(ThreadingHTTPServer):
    """Answers each connection in a thread of its own.

    Args:
        address: host and port; port 0 is any that is free.
        name: of the model, in the paths.
        served: the model.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], name: str, served: Served):
        self.name, self.served = name, served
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # of a connection that sends nothing

    def do_GET(self) -> None:
        path = f"/v1/models/{self.server.name}"
        if self.path == path:
            status = {"error_code": "OK", "error_message": ""}
            self._answer(200, {"model_version_status": [{"version": VERSION, "state": "AVAILABLE", "status": status}]})
        elif self.path == f"{path}/metadata":
            spec = {"name": self.server.name, "signature_name": "", "version": VERSION}
            signatures = {"signature_def": self.server.served.metadata()}
            self._answer(200, {"model_spec": spec, "metadata": {"signature_def": signatures}})
        else:
            self._answer(404, {"error": f"there is no {self.path}; the model is {path}"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            self.close_connection = True  # what follows would be read as the next request
            self._answer(413 if length.isdigit() else 411, {"error": f"Content-Length must be 0 to {MOST_BYTES} bytes"})
            return
        body = self.rfile.read(int(length))
        if self.path != f"/v1/models/{self.server.name}:predict":
            self._answer(404, {"error": f"there is no {self.path}; ask /v1/models/{self.server.name}:predict"})
            return
        try:
            self._answer(200, self.server.served.predict(json.loads(body)))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            self._answer(400, {"error": f"the request is no JSON: {error}"})
        except RequestError as error:
            self._answer(400, {"error": str(error)})
        except Exception as error:  # TensorFlow's, say: the server goes on
            self._answer(500, {"error": f"{type(error).__name__}: {error}"})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """No line for each request."""
