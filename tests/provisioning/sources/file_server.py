"""A small HTTP server for files, with ranges and with faults that can be ordered."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True)
class Response:
    """`file` names the file whose content `body` is: ranges and faults apply to it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: str | None = None


@dataclass
class Faults:
    """What goes wrong, per file name. `cut`: (bytes sent of each answer, how many times)."""

    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    shorten: set[str] = field(default_factory=set)
    status: dict[str, tuple[int, int]] = field(default_factory=dict)
    status_after_cut: int | None = None
    ignore_ranges: bool = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is no error; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class FileServer:
    """Serves on 127.0.0.1 from entering to leaving `with`; subclasses say what in `answer`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults = Faults()
        self._happened: Counter[str] = Counter()
        handler = type("Handler", (_Handler,), {"app": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def answer(self, request: Request) -> Response:
        raise NotImplementedError

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self, method: str = "GET") -> list[str]:
        return [request.path for request in self.requests if request.method == method]

    def takes_place(self, fault: str, times: int) -> bool:
        """Count one more occurrence of `fault` and say whether it is among the first `times`."""
        self._happened[fault] += 1
        return self._happened[fault] <= times

    def has_happened(self, fault: str) -> bool:
        return self._happened[fault] > 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    app: FileServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, url.path, dict(parse_qsl(url.query)), headers)
        self.app.requests.append(request)
        self._send(self.app.answer(request), headers.get("range"))

    do_HEAD = do_GET

    def _send(self, response: Response, wanted_range: str | None) -> None:
        status, body, headers = response.status, response.body, dict(response.headers)
        faults, file = self.app.faults, response.file or ""
        if file in faults.status and self.app.takes_place("status " + file, faults.status[file][1]):
            status, body, wanted_range = faults.status[file][0], b"later", None
        elif (
            file in faults.cut and faults.status_after_cut and self.app.has_happened("cut " + file)
        ):
            status, body, wanted_range = faults.status_after_cut, b"later", None
        elif file in faults.corrupt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif file in faults.shorten:
            body = body[: len(body) // 2]
        if file and wanted_range and not faults.ignore_ranges:
            begin = int(wanted_range.removeprefix("bytes=").partition("-")[0])
            status = 206 if begin < len(body) else 416
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            body = body[begin:]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if (
            status < 300
            and file in faults.cut
            and self.app.takes_place("cut " + file, faults.cut[file][1])
        ):
            self.wfile.write(body[: faults.cut[file][0]])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on standard error."""
