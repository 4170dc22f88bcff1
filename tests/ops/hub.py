"""A server on loopback that plays Hugging Face's hub for one repository, and `base fetch` against it."""

import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from checkouts import Checkout

from xtts_finetune.model.published import OPTIONAL, PUBLISHED, REPOSITORY, REVISION

CHUNK = 65_536  # bytes that are written at once by who fetches: above what Python holds back
FILES = {
    name: hashlib.sha256(name.encode()).digest() * (8 + 20_000 * (name == "model.pth")) for name in PUBLISHED | OPTIONAL
}
# The program with stand-ins for the published files: real huggingface_hub, and smaller pieces.
_PROGRAM = f"""
import hashlib, sys
from huggingface_hub import constants
sys.path += {[str(place) for place in Path(__file__).parents[:2]]}
from hub import FILES
from xtts_finetune.model import published
constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}
for names in published.PUBLISHED, published.OPTIONAL:
    names.update({{name: hashlib.sha256(FILES[name]).hexdigest() for name in names}})
published.SIZES.update({{name: len(content) for name, content in FILES.items()}})
from xtts_finetune.cli import main
main()
"""


@dataclass
class Hub:
    """What it has, what it was asked, and when it falls silent."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, name, Range
    stops_after: int | None = None  # bytes of model.pth, then nothing comes any more
    stopped: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def fetched(self) -> list[str]:
        return [name for method, name, _ in self.asked if method == "GET"]


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.ends = hub, threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        before, _, name = self.path.rpartition("/")
        wanted, hub = self.headers.get("Range", ""), self.server.hub
        hub.asked.append((method, name, wanted))
        content = hub.files.get(name) if before == f"/{REPOSITORY}/resolve/{REVISION}" else None
        if content is None:
            self._head(404, {"Content-Length": "0"})
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        headers = {"Content-Length": str(len(content) - start), "X-Repo-Commit": REVISION}
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if wanted else 200, headers)
        if method == "GET":
            self._send(content[start:], name)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()

    def _send(self, content: bytes, name: str) -> None:
        hub = self.server.hub
        if hub.stops_after is None or name != "model.pth":
            self.wfile.write(content)
            return
        self.wfile.write(content[: hub.stops_after])
        self.wfile.flush()
        hub.stopped.set()
        self.server.ends.wait()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    server = _Server(hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.ends.set()
        server.shutdown()
        server.server_close()


def command(hub: Hub, *arguments: str) -> list[str]:
    environment = ["env", f"HF_ENDPOINT={hub.address}", "HF_HUB_DISABLE_TELEMETRY=1", "NO_PROXY=127.0.0.1"]
    return [*environment, sys.executable, "-c", _PROGRAM, "base", "fetch", *arguments]


def fetch(checkout: Checkout, hub: Hub, *arguments: str, code: int = 0) -> str:
    """`xtts-finetune base fetch`; what it says."""
    done = checkout.run(*command(hub, *(arguments or ("--accept-licence",))), code=code)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def folder_of(checkout: Checkout) -> Path:
    return checkout.root / "base" / "xtts_v2"


def has_all(checkout: Checkout) -> bool:
    """Every file, whole, and nothing else."""
    return {path.name: path.read_bytes() for path in folder_of(checkout).iterdir()} == FILES
