"""A hub on loopback: the few routes that huggingface_hub uses to make a repository, to commit to
it, and to read files of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_fake"
FILE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
REPO = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit|branch|revision)/([^/?]+)")


@dataclass
class Repository:
    """Files of each commit, and the commit of each branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        tree = self.commits[self.branches[branch]] | files
        name = hashlib.sha1(repr((branch, sorted(tree.items()))).encode()).hexdigest()
        self.commits[name], self.branches[branch] = tree, name
        return name


class FakeHub(ThreadingHTTPServer):
    """`requests` lists what was asked for; `sizes` are announced in place of the true ones."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.sizes: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        """Whoever asks now is refused a connection."""
        self.shutdown()
        self.server_close()


@contextmanager
def running() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stop()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *arguments: object) -> None:
        self.server.requests.append(f"{self.command} {unquote(self.path)}")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, value: Any = None, status: int = 200, error: str = "") -> None:  # noqa: ANN401
        data = json.dumps({} if value is None else value).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.file()

    def do_GET(self) -> None:
        if self.path == "/stop":
            self.answer()
            threading.Thread(target=self.server.stop).start()
            return
        self.file()

    def file(self) -> None:
        match = FILE.fullmatch(unquote(self.path))
        if match is None:
            return self.answer(status=404)
        repository = self.server.repositories.get(match[1])
        if repository is None:
            return self.answer(status=404, error="RepoNotFound")
        commit = repository.branches.get(match[2], match[2])
        if commit not in repository.commits:
            return self.answer(status=404, error="RevisionNotFound")
        data = repository.commits[commit].get(match[3])
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        if (size := self.server.sizes.get(f"{match[1]}/{match[3]}")) is not None:
            self.send_header("X-Linked-Size", str(size))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
        return None

    def do_PUT(self) -> None:
        self.server.large[self.path.rpartition("/")[2]] = self.body()
        self.answer()

    def do_POST(self) -> None:
        body, path = self.body(), unquote(self.path)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(status=401)
        if path == "/api/repos/create":
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}"
            there = name in self.server.repositories
            self.server.repositories.setdefault(name, Repository())
            return self.answer({"url": f"{self.server.url}/{name}"}, 409 if there else 200)
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{self.server.url}/large/{each['oid']}"}}
            return self.answer({"transfer": "basic", "objects": objects})
        match = REPO.match(path)
        if match is None:
            return self.answer(status=404)
        repository, name = self.server.repositories[match[1]], match[3]
        if match[2] == "branch":
            repository.branches.setdefault(name, repository.branches["main"])
            return self.answer()
        if match[2] == "preupload":
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        commit = repository.commit(name, dict(self.committed(body)))
        url = f"{self.server.url}/{match[1]}/commit/{commit}"
        return self.answer({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})

    def committed(self, body: bytes) -> Iterator[tuple[str, bytes]]:
        """Files of a commit, which is a line of JSON each."""
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                yield value["path"], base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                yield value["path"], self.server.large[value["oid"]]
