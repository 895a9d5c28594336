"""A Hub on localhost, for the real huggingface_hub client: repositories, LFS, commits, tags,
downloads with ranges, private and gated repositories, and faults that a test asks for.

    with HubServer() as hub:
        hub.fail("PUT", "/lfs/", drop=True)
        HfApi(endpoint=hub.url, token=hub.token).create_repo("owner/name")

Everything is kept in memory. A commit is taken whole or not at all.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest

TYPES = ("models", "datasets", "spaces")
LFS_SUFFIXES = (".safetensors", ".png")
REPOSITORY = r"(?P<id>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<type>models|datasets|spaces)/{REPOSITORY}"
PAGES = rf"/((?P<type>datasets|spaces)/)?{REPOSITORY}"


@dataclass(frozen=True)
class File:
    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
            f"size {len(self.content)}\n"
        ).encode()

    @property
    def blob_id(self) -> str:
        """As git names it."""
        data = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    oid: str
    summary: str
    files: dict[str, File]


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, summary: str, files: dict[str, File]) -> Commit:
        text = f"{len(self.commits)} {summary} {[(name, files[name].etag) for name in files]}"
        self.commits.append(Commit(hashlib.sha1(text.encode()).hexdigest(), summary, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        """By branch (`main` alone), tag or commit."""
        oid = self.commits[-1].oid if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)


@dataclass
class Fault:
    """What happens to the next `times` requests of a method to a path that matches.

    `drop` closes the connection, in the middle of the content if it is a download; `status` answers
    with an error, which repeats the request's Authorization header if `echo` is set; `damaged`
    sends a download with its last byte changed, or with the last byte missing if `shorter` is set.
    """

    method: str
    path: re.Pattern[str]
    times: int
    drop: bool = False
    status: int = 0
    echo: bool = False
    damaged: bool = False
    shorter: bool = False


class Refusal(Exception):
    """An answer with an error, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class HubServer(ThreadingHTTPServer):
    """The server, and what a test may look at and set.

    Attributes:
        url: for `HF_ENDPOINT`.
        token: the one that may write, and read what is private or gated.
        repositories: by type (`models`, `datasets`, `spaces`) and id.
        lfs: uploaded objects by SHA-256.
        requests: method and path of each, in order.
    """

    token = "hf_ThisTokenIsMadeUpForTheTestsOnly"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that a client or a fault closed are no news."""

    def fail(self, method: str, path: str, *, times: int = 1, **what: Any) -> None:
        """Inject a `Fault`; `path` is a regular expression, found anywhere in the path."""
        self._faults.append(Fault(method, re.compile(path), times, **what))

    @contextmanager
    def failing(self, method: str, path: str, **what: Any) -> Iterator[None]:
        """A fault that lasts as long as the block."""
        self.fail(method, path, **({"times": 1_000} | what))
        try:
            yield
        finally:
            self._faults.clear()

    def add(self, kind: str, name: str, files: dict[str, bytes], **what: bool) -> Commit:
        """A repository with one commit, without a client."""
        repository = self.repositories[kind, name] = Repository(**what)
        return repository.commit(
            "Add files",
            {path: File(data, path.endswith(LFS_SUFFIXES)) for path, data in files.items()},
        )

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, counted down."""
        with self._lock:
            self.requests.append((method, path))
            for fault in self._faults:
                if fault.times and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None


def redirect_clients(monkeypatch: pytest.MonkeyPatch, hub: HubServer, cache: Path) -> None:
    """Send this process's clients to a Hub, with its token, a cache of their own and no waiting."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet each; waiting for acknowledgements costs 40 ms a request.
    disable_nagle_algorithm = True

    ROUTES = (
        ("POST", r"/api/repos/create", "_create"),
        ("POST", r"/api/validate-yaml", "_validate_yaml"),
        ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", "_preupload"),
        ("POST", rf"{API}/commit/(?P<revision>[^/]+)", "_commit"),
        ("POST", rf"{API}/tag/(?P<revision>[^/]+)", "_tag"),
        ("GET", rf"{API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "_tree"),
        ("GET", rf"{API}(/revision/(?P<revision>[^/]+))?", "_info"),
        ("POST", rf"{PAGES}\.git/info/lfs/objects/batch", "_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "_upload"),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", "_verify"),
        ("HEAD", rf"{PAGES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "_resolve"),
        ("GET", rf"{PAGES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "_resolve"),
    )

    def log_message(self, format: str, *values: Any) -> None:
        """Quiet: `HubServer.requests` has them."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.active = self.server.fault(self.command, path)
        try:
            if self.active and self.active.status:
                said = self.headers.get("Authorization") if self.active.echo else ""
                raise Refusal(self.active.status, f"The test asks for this. {said}".strip())
            if self.active and self.active.drop and "/resolve/" not in path:
                self.close_connection = True
                return
            for method, pattern, name in self.ROUTES:
                found = re.fullmatch(pattern, path)
                if method == self.command and found:
                    getattr(self, name)(**found.groupdict())
                    return
            raise Refusal(404, f"{self.command} {path} is not part of this Hub")
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"Retry-After": "0"} if refusal.status == 429 else {}
            self._json({"error": str(refusal)}, refusal.status, headers)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self._send(content, status, {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _signed_in(self) -> bool:
        sent = self.headers.get("Authorization")
        if sent not in (None, f"Bearer {self.server.token}"):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return sent is not None

    def _repository(
        self, kind: str | None, name: str, *, write: bool = False, read: bool = False
    ) -> Repository:
        signed_in = self._signed_in()
        repository = self.server.repositories.get((kind or "models", name))
        if repository is None or (repository.private and not signed_in):
            raise Refusal(404 if signed_in else 401, "Repository not found", "RepoNotFound")
        if write and not signed_in:
            raise Refusal(401, "Invalid username or password.")
        if read and repository.gated and not signed_in:
            raise Refusal(401, f"Access to model {name} is restricted. Please log in.", "GatedRepo")
        return repository

    def _at(self, repository: Repository, revision: str) -> Commit:
        commit = repository.at(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _create(self) -> None:
        if not self._signed_in():
            raise Refusal(401, "Invalid username or password.")
        values = json.loads(self.body)
        kind = f"{values.get('type', 'model')}s"
        name = f"{values['organization']}/{values['name']}"
        pages = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.server.url}/{pages}{name}"}
        if (kind, name) in self.server.repositories:
            self._json(answer | {"error": "You already created this repo"}, 409)
            return
        if kind == "spaces" and values.get("sdk") not in ("gradio", "static", "docker"):
            raise Refusal(400, "sdk must be one of gradio, static, docker")
        repository = Repository(private=values.get("visibility") == "private")
        self.server.repositories[kind, name] = repository
        repository.commit("initial commit", {".gitattributes": File(b"", False)})
        self._json(answer)

    def _validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        if content.startswith("---\n") and "\n---" in content[4:]:
            self._json({"errors": [], "warnings": []})
        else:
            error = {"message": "README.md must start with front matter between lines of ---"}
            self._json({"errors": [error], "warnings": []}, 400)

    def _preupload(self, type: str, id: str, revision: str) -> None:
        commit = self._at(self._repository(type, id, write=True), revision)
        answer = []
        for entry in json.loads(self.body)["files"]:
            file = commit.files.get(entry["path"])
            answer.append(
                {
                    "path": entry["path"],
                    "uploadMode": "lfs" if entry["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": file.etag if file else None,
                }
            )
        self._json({"files": answer})

    def _batch(self, type: str | None, id: str) -> None:
        self._repository(type, id, write=True)
        objects = []
        for entry in json.loads(self.body)["objects"]:
            href = f"{self.server.url}/lfs/{entry['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            known = entry["oid"] in self.server.lfs
            objects.append(entry if known else entry | {"actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, f"content does not have the SHA-256 {oid}")
        self.server.lfs[oid] = self.body
        self._send(b"", 200, {})

    def _verify(self, oid: str) -> None:
        if oid not in self.server.lfs:
            raise Refusal(404, f"no object {oid}")
        self._json({})

    def _commit(self, type: str, id: str, revision: str) -> None:
        repository = self._repository(type, id, write=True)
        files = dict(self._at(repository, revision).files)
        summary = ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                summary = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.lfs:
                    raise Refusal(400, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = File(self.server.lfs[value["oid"]], True)
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            elif entry["key"] == "deletedFolder":
                inside = f"{value['path'].rstrip('/')}/"
                files = {path: file for path, file in files.items() if not path.startswith(inside)}
            else:
                raise Refusal(400, f"unknown key {entry['key']!r}")
        commit = repository.commit(summary, files)
        url = f"{self.server.url}/{id}/commit/{commit.oid}"
        self._json({"commitOid": commit.oid, "commitUrl": url})

    def _tag(self, type: str, id: str, revision: str) -> None:
        repository = self._repository(type, id, write=True)
        repository.tags[json.loads(self.body)["tag"]] = self._at(repository, revision).oid
        self._json({})

    def _info(self, type: str, id: str, revision: str | None) -> None:
        repository = self._repository(type, id)
        commit = self._at(repository, revision or "main")
        self._json(
            {
                "id": id,
                "sha": commit.oid,
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "siblings": [{"rfilename": path} for path in commit.files],
            }
        )

    def _tree(self, type: str, id: str, revision: str, path: str | None) -> None:
        commit = self._at(self._repository(type, id), revision)
        start = f"{path}/" if path else ""
        inside = {
            name: file for name, file in sorted(commit.files.items()) if name.startswith(start)
        }
        if path and not inside:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        recursive = self.query.get("recursive", [""])[0].lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for name, file in inside.items():
            folders = name[len(start) :].split("/")[:-1]
            for depth in range(len(folders) if recursive else min(len(folders), 1)):
                folder = start + "/".join(folders[: depth + 1])
                oid = hashlib.sha1(folder.encode()).hexdigest()
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid}
            if recursive or not folders:
                size = len(file.content)
                entry = {"type": "file", "path": name, "size": size, "oid": file.blob_id}
                if file.is_lfs:
                    lfs = {"oid": file.sha256, "size": size, "pointerSize": len(file.pointer)}
                    entry["lfs"] = lfs
                entries[name] = entry
        self._json(list(entries.values()))

    def _resolve(self, type: str | None, id: str, revision: str, path: str) -> None:
        commit = self._at(self._repository(type, id, read=True), revision)
        if path not in commit.files:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        file = commit.files[path]
        content, status = file.content, 200
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.is_lfs:
            headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(content))}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and int(wanted[1]) < len(content):
            first, last = int(wanted[1]), len(content) - 1
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first:], 206
        if self.active and self.command == "GET":
            if self.active.drop:
                headers["Content-Length"] = str(len(content))
                content, self.close_connection = content[: len(content) // 2], True
            elif self.active.damaged:
                end = b"" if self.active.shorter else bytes([content[-1] ^ 1])
                content = content[:-1] + end
        elif self.active and self.active.drop:
            self.close_connection = True
            return
        self._send(content, status, headers)


__all__ = ["Commit", "File", "HubServer", "Repository", "redirect_clients"]
