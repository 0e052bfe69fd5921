"""The Hugging Face hub on loopback: lists, files with ETag, redirects, ranges, refusals, connections that break.

`HubServer` answers what `huggingface_hub` asks: `/api/models/<repository>`,
`/<repository>/resolve/<revision>/<file>` and, for files of weights, a redirect to another host ("localhost" instead
of 127.0.0.1, as the hub has a CDN).
"""

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".bin", ".pt")


@dataclass
class HubServer:
    """A hub that runs while the context is open.

    Attributes:
      repositories: contents of files, by repository and name.
      refusals: answers in place of the next ones to requests whose path contains the key: status and headers.
      breaks: after how many bytes the next downloads of a file end, with a reset or an orderly close by turns.
      damage: bytes that the next downloads of a file give instead.
      log: every request, method and path, in order.
      tokens: whether a request for a file of weights on the second host carried a token.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    damage: dict[str, list[bytes]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    tokens: list[bool] = field(default_factory=list)

    def __enter__(self):
        hub = self

        class Handler(_Handler):
            server_state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def second_url(self) -> str:
        return f"http://localhost:{self.server.server_port}"

    def downloads(self) -> Counter[str]:
        """How often the content of each file of weights was asked for, by repository and name."""
        return Counter(
            match[1] for line in self.log if (match := re.fullmatch(r"GET /cdn/(.+?)/[0-9a-f]{64}", line))
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: HubServer

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(head=True)

    def do_GET(self):
        self._answer(head=False)

    def _answer(self, head: bool):
        hub, path = self.server_state, unquote(urlsplit(self.path).path)
        hub.log.append(f"{self.command} {path}")
        for part, answers in hub.refusals.items():
            if part in path and answers:
                status, headers = answers.pop(0)
                return self._send(status, b"" if head else b'{"error": "refused"}', headers)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            return self._list(match[1])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._resolve(match[1], match[2], head)
        if match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([^/]+)/[0-9a-f]{64}", path):
            hub.tokens.append("Authorization" in self.headers)
            return self._content(match[2], hub.repositories[match[1]][match[2]], {}, head)
        return self._send(404, b"", {})

    def _list(self, repository: str):
        files = self.server_state.repositories.get(repository)
        if files is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        siblings = []
        for name, content in files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if name.endswith(_LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        listing = {"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "private": False}
        content = json.dumps(listing | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})
        return self._send(200, content.encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: str, name: str, head: bool):
        files, commit = self.server_state.repositories.get(repository), {"X-Repo-Commit": COMMIT}
        if files is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if name not in files:
            return self._send(404, b"", commit | {"X-Error-Code": "EntryNotFound"})
        content = files[name]
        if not name.endswith(_LARGE):
            tag = hashlib.sha1(content).hexdigest()
            return self._content(name, content, commit | {"ETag": f'"{tag}"'}, head)
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
        place = f"{self.server_state.second_url}/cdn/{repository}/{name}/{digest}"
        return self._send(302, b"", commit | linked | {"Location": place})

    def _content(self, name: str, content: bytes, headers: dict[str, str], head: bool):
        hub = self.server_state
        if not head and hub.damage.get(name):
            content = hub.damage[name].pop(0)
        whole, status = len(content), 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            content, status = content[int(match[1]) :], 206
            headers = headers | {"Content-Range": f"bytes {match[1]}-{whole - 1}/{whole}"}
        if head or not hub.breaks.get(name):
            return self._send(status, content, headers, head)
        return self._break_off(
            status, content, headers, hub.breaks[name].pop(0), len(hub.breaks[name]) % 2 == 0
        )

    def _break_off(self, status: int, content: bytes, headers: dict[str, str], after: int, reset: bool):
        self._start(status, len(content), headers)
        with contextlib.suppress(OSError):
            self.wfile.write(content[:after])
            self.wfile.flush()
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _send(self, status: int, content: bytes, headers: dict[str, str], head: bool = False):
        self._start(status, len(content), headers)
        if not head and self.command != "HEAD":
            self.wfile.write(content)

    def _start(self, status: int, length: int, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
