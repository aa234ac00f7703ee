"""A Hub on the loopback interface: the routes that huggingface_hub uses, and every fault that a test plays.

with Hub() as hub:
    hub.files["owner/name", REVISION, "model.safetensors"] = data
    hub.faults.append(fail(503, times=2))
    ...
    hub.requests          # what was asked, in order
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/weights"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


Fault = Callable[["Hub", "Handler"], bool]
"""Sees a request before it is answered; True where it has answered itself, or has closed the connection."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None: ...  # whoever asked is gone


class Hub:
    """Serves `files` by (repository, revision, path), and takes commits."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.uploads: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []
        self.stopping = threading.Event()
        hub = self

        class Bound(Handler):
            server_hub = hub

        self._server = _Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def asked(self, method: str = "") -> list[str]:
        """Requests of files, without what the client asks about itself."""
        found = [str(request) for request in self.requests if not request.path.startswith("/api/agent")]
        return [request for request in found if request.startswith(method)]

    def put(self, data: bytes, repository: str = REPOSITORY, file: str = "model.safetensors") -> None:
        self.files[repository, REVISION, file] = data


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, status: int, content: Any) -> None:
        self.send(status, json.dumps(content).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.body = self.rfile.read(int(headers.get("content-length", 0)))
        hub.requests.append(Request(self.command, self.path, headers))
        for fault in list(hub.faults):
            if fault(hub, self):
                return
        path = urlsplit(self.path).path
        if self.command in ("HEAD", "GET") and "/resolve/" in path:
            self.send_file(*self._named(path))
        elif self.command in ("POST", "PUT"):
            _take(hub, self, path)
        else:
            self.send(404)

    @staticmethod
    def _named(path: str) -> tuple[str, str, str]:
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return repository, revision, file

    def send_file(self, repository: str, revision: str, file: str, **changed: Any) -> None:
        """A file as the Hub sends it; `changed`: body, etag, commit, further headers."""
        known = self.server_hub.files
        if (repository, revision, file) not in known:
            some = [key[1] for key in known if key[0] == repository]
            code = "RepoNotFound" if not some else "EntryNotFound" if revision in some else "RevisionNotFound"
            self.send(404, X_Error_Code=code)
            return
        data = known[repository, revision, file]
        etag = changed.get("etag", hashlib.sha256(data).hexdigest())
        body = changed.get("body", data)
        headers: dict[str, Any] = {"ETag": f'"{etag}"', "X_Repo_Commit": changed.get("commit", revision)}
        headers |= changed.get("headers", {})
        given = self.headers.get("Range", "")
        if given.startswith("bytes=") and self.command == "GET":
            start = int(given.removeprefix("bytes=").partition("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.send(206, body[start:], **headers)
        else:
            self.send(200, body, **headers)


# --- faults -----------------------------------------------------------------------------------------------


@dataclass
class Times:
    """How often a fault has still to be played; None is always."""

    left: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        with self.lock:
            if self.left is None:
                return True
            self.left -= 1
            return self.left >= 0


def fail(status: int, *, times: int | None = None, method: str = "", **headers: Any) -> Fault:
    """Answer with a status; `times`: so often, then no more."""
    left = Times(times)

    def fault(hub: Hub, handler: Handler) -> bool:
        if not handler.command.startswith(method) or not left.take():
            return False
        handler.send(status, **headers)
        return True

    return fault


def changed(*, times: int | None = None, method: str = "", **change: Any) -> Fault:
    """Send another body, ETag or commit than the right one."""
    left = Times(times)

    def fault(hub: Hub, handler: Handler) -> bool:
        if "/resolve/" not in handler.path or not handler.command.startswith(method) or not left.take():
            return False
        handler.send_file(*handler._named(handler.path), **change)
        return True

    return fault


def cut_off(after: int, *, times: int | None = None) -> Fault:
    """Promise the whole body, send `after` bytes of it and close the connection."""
    left = Times(times)

    def fault(hub: Hub, handler: Handler) -> bool:
        if handler.command != "GET" or "/resolve/" not in handler.path or not left.take():
            return False
        data = hub.files[handler._named(handler.path)]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:after])
        handler.wfile.flush()
        handler.close_connection = True
        return True

    return fault


def slow(seconds: float, method: str = "GET", pieces: int = 20) -> Fault:
    """Send the body in pieces over so many seconds."""

    def fault(hub: Hub, handler: Handler) -> bool:
        if handler.command != method or "/resolve/" not in handler.path:
            return False
        data = hub.files[handler._named(handler.path)]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        step = -(-len(data) // pieces)
        try:
            for start in range(0, len(data), step):
                handler.wfile.write(data[start : start + step])
                handler.wfile.flush()
                time.sleep(seconds / pieces)
        except OSError:
            handler.close_connection = True  # whoever asked is gone
        return True

    return fault


def silent(method: str = "") -> Fault:
    """Take the request and never answer."""

    def fault(hub: Hub, handler: Handler) -> bool:
        if not handler.command.startswith(method):
            return False
        hub.stopping.wait(60)
        handler.close_connection = True
        return True

    return fault


def redirect(target: str) -> Fault:
    """Send who asks for a file to another origin, as the Hub does with its content store."""

    def fault(hub: Hub, handler: Handler) -> bool:
        if "/resolve/" not in handler.path:
            return False
        repository, revision, file = handler._named(handler.path)
        data = hub.files[repository, revision, file]
        handler.send(
            302,
            Location=f"{target}/blob",
            X_Repo_Commit=revision,
            X_Linked_Etag=f'"{hashlib.sha256(data).hexdigest()}"',
            X_Linked_Size=str(len(data)),
        )
        return True

    return fault


def blob(data: bytes) -> Fault:
    """What another origin serves."""

    def fault(hub: Hub, handler: Handler) -> bool:
        handler.send(200, data, ETag='"blob"')
        return True

    return fault


# --- taking commits ---------------------------------------------------------------------------------------


def _take(hub: Hub, handler: Handler, path: str) -> None:
    """The routes of an upload: create, preupload, LFS batch, content, commit."""
    if path == "/api/repos/create":
        handler.send_json(200, {"url": f"{hub.url}/{REPOSITORY}"})
    elif path == "/api/validate-yaml":
        handler.send_json(200, {"errors": [], "warnings": []})
    elif "/preupload/" in path:
        files = json.loads(handler.body)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        handler.send_json(200, {"files": modes})
    elif path.endswith("/info/lfs/objects/batch"):
        objects = [
            {**one, "actions": {"upload": {"href": f"{hub.url}/upload/{one['oid']}", "header": {}}}}
            for one in json.loads(handler.body)["objects"]
        ]
        handler.send_json(200, {"transfer": "basic", "objects": objects})
    elif path.startswith("/upload/"):
        hub.uploads[path.rpartition("/")[2]] = handler.body
        handler.send(200)
    elif "/commit/" in path:
        _commit(hub, handler)
    else:
        handler.send(404)


def _commit(hub: Hub, handler: Handler) -> None:
    commit: dict[str, bytes] = {}
    for line in handler.body.decode().splitlines():
        value = json.loads(line)
        if value["key"] == "file":
            commit[value["value"]["path"]] = base64.b64decode(value["value"]["content"])
        elif value["key"] == "lfsFile":
            commit[value["value"]["path"]] = hub.uploads[value["value"]["oid"]]
    hub.commits.append(commit)
    for name, data in commit.items():
        hub.files[REPOSITORY, REVISION, name] = data
    handler.send_json(
        200,
        {"success": True, "commitOid": REVISION, "commitUrl": f"{hub.url}/{REPOSITORY}/commit/{REVISION}"},
    )
