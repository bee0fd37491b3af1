"""A Hub that misbehaves on request: every fault a downloader must survive or refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from bundler.demo.hub import HubFile, LoopbackHub, Repository, error_answer, json_answer
from bundler.demo.serving import Answer, FileRange, Handler, LoopbackServer, Request, cut, file_answer

PIECE = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """Answer with this status instead; `{authorization}` in the message echoes what the client sent."""

    status: int
    code: str = ""
    message: str = "injected"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Corrupt:
    """Flip one bit of the byte at this offset of the file."""

    at: int = 0


@dataclass(frozen=True, kw_only=True)
class Truncate:
    """Claim and send only this many bytes: the answer is whole HTTP, the file is not."""

    to: int


@dataclass(frozen=True, kw_only=True)
class Grow:
    """Claim and send more bytes than the file has."""

    by: int


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Cut the connection after this many bytes of the body."""

    after: int


@dataclass(frozen=True, kw_only=True)
class Stall:
    """Send this many bytes of the body, then nothing more."""

    after: int


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Send at most this many bytes per second."""

    rate: int


Fault = Refuse | Corrupt | Truncate | Grow | Drop | Stall | Slow


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request as the server saw it."""

    method: str
    path: str
    range: str
    authorization: str
    user_agent: str


class Storage(LoopbackServer):
    """The other origin that a Hub redirects bodies to: signed URLs, no commit, an ETag of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, Path] = {}
        self.seen: list[Seen] = []

    def answer(self, request: Request) -> Answer:
        """The file, or 403 for a URL that was not signed."""
        self.seen.append(_seen(request))
        path = self.files.get(request.path)
        if path is None or "signature" not in request.query:
            return Answer(status=403)
        return file_answer(request, path, path.stat().st_size, {"ETag": '"opaque-to-everyone"'})


class FaultyHub(LoopbackHub):
    """A Hub to which faults can be given while it runs. Without any it is a LoopbackHub that remembers."""

    def __init__(self, root: Path, **settings: int) -> None:
        super().__init__(root, **settings)
        self.seen: list[Seen] = []
        self.token = ""
        """When set, all repositories are gated and this is the token that opens them."""
        self.renamed: dict[str, str] = {}
        """Offered path to the name that is claimed instead: hostile names no disk would hold."""
        self.extra: list[HubFile] = []
        """Entries added to every repository."""
        self.claimed_commit = ""
        """Sent as X-Repo-Commit of files instead of the true one."""
        self.claimed_etags: dict[str, str] = {}
        """File path to the ETag claimed for it."""
        self.claimed_oids: dict[str, str] = {}
        """File path to the git blob id claimed in metadata."""
        self.hidden_digests: set[str] = set()
        """Paths offered without any digest."""
        self.storage: Storage | None = None
        """When set, bodies are redirected there."""
        self.moved: dict[str, str] = {}
        """Repository to the one it is redirected to, as after a rename."""
        self.xet_hashes: dict[str, str] = {}
        self.cas_url = ""
        self._faults: list[tuple[str, Fault, list[int]]] = []
        self._faults_guard = threading.Lock()

    def inject(self, part: str, fault: Fault, *, times: int = 1_000_000) -> None:
        """Give `fault` to the next `times` requests whose path contains `part`."""
        self._faults.append((part, fault, [times]))

    def heal(self) -> None:
        """Take all faults back."""
        with self._faults_guard:
            self._faults.clear()

    def _take(self, request: Request, *kinds: type[Fault]) -> Fault | None:
        with self._faults_guard:
            for part, fault, left in self._faults:
                if part in request.path and isinstance(fault, kinds) and left[0] > 0:
                    left[0] -= 1
                    return fault
        return None

    def asked(self, part: str, method: str = "GET") -> list[Seen]:
        """Requests of this method whose path contains `part`."""
        return [seen for seen in self.seen if part in seen.path and seen.method == method]

    def files(self, repo: str, folder: Path) -> Iterator[HubFile]:
        """The folder's files with the claims made about them."""
        for file in super().files(repo, folder):
            path = self.renamed.get(file.path, file.path)
            yield replace(file, path=path, xet_hash=self.xet_hashes.get(file.path))
        yield from self.extra

    def refusal(self, request: Request, repository: Repository) -> Answer | None:
        """401 without a token and 403 with the wrong one, once `token` is set."""
        sent = request.header("authorization")
        if not self.token or sent == f"Bearer {self.token}":
            return None
        message = f"Access to model {repository.id} is restricted."
        return error_answer(403 if sent else 401, "GatedRepo", message)

    def answer(self, request: Request) -> Answer:
        """The Hub's answer, or a fault."""
        self.seen.append(_seen(request))
        for old, new in self.moved.items():
            if old in request.path:
                return Answer(status=307, headers={"Location": request.path.replace(old, new)})
        fault = self._take(request, Refuse)
        if isinstance(fault, Refuse):
            message = fault.message.replace("{authorization}", request.header("authorization"))
            return error_answer(fault.status, fault.code, message).with_headers(**fault.headers)
        if "/xet-read-token/" in request.path:
            return self._xet_token(request)
        return self._with_false_length(request, self._with_claims(request, super().answer(request)))

    def _with_claims(self, request: Request, answer: Answer) -> Answer:
        if not self.claimed_oids and not self.hidden_digests:
            return answer
        if not isinstance(answer.body, bytes) or "/api/" not in request.path:
            return answer
        import json

        value = json.loads(answer.body)
        for entry in value["siblings"] if isinstance(value, dict) and "siblings" in value else value:
            self._claim(entry)
        return replace(answer, body=json.dumps(value).encode())

    def _claim(self, entry: dict[str, object]) -> None:
        path = str(entry.get("rfilename") or entry.get("path"))
        name = "blobId" if "rfilename" in entry else "oid"
        if path in self.claimed_oids:
            entry[name] = self.claimed_oids[path]
        if path in self.hidden_digests:
            entry.pop("lfs", None)
            entry.pop(name, None)
            if name == "oid":
                entry[name] = ""  # the real client cannot read an entry without the member

    def _with_false_length(self, request: Request, answer: Answer) -> Answer:
        if request.method != "GET" or not isinstance(answer.body, FileRange):
            return answer
        fault = self._take(request, Truncate, Grow)
        if isinstance(fault, Truncate):
            stop = min(answer.body.stop, max(fault.to, answer.body.start))
            return replace(answer, body=replace(answer.body, stop=stop))
        if isinstance(fault, Grow):
            return replace(answer, body=answer.body.path.read_bytes() + bytes(fault.by))
        return answer

    def _xet_token(self, request: Request) -> Answer:
        expires = int(time.time()) + 3600
        answer = json_answer({"accessToken": "xet-access", "exp": expires, "casUrl": self.cas_url})
        return answer.with_headers(
            X_Xet_Cas_Url=self.cas_url, X_Xet_Access_Token="xet-access", X_Xet_Token_Expiration=str(expires)
        )

    def resolve(self, request: Request, repository: Repository, path: str) -> Answer:
        """The file, or a redirect to the storage that has it."""
        answer = super().resolve(request, repository, path)
        if self.storage is None or path not in repository.files:
            return answer
        location = f"/{repository.id}/{quote(path)}"
        self.storage.files[location] = repository.files[path].source
        headers = {name: value for name, value in answer.headers.items() if name.startswith("X-")}
        headers["X-Linked-ETag"] = answer.headers["ETag"]
        headers["Location"] = f"{self.storage.url}{location}?signature=fresh"
        return Answer(status=302, headers=headers)

    def file_headers(self, repository: Repository, file: HubFile) -> dict[str, str]:
        """The true headers, with false claims where some were asked for."""
        headers = super().file_headers(repository, file)
        if self.claimed_commit:
            headers["X-Repo-Commit"] = self.claimed_commit
        if file.path in self.claimed_etags:
            headers |= dict.fromkeys(
                headers.keys() & {"ETag", "X-Linked-ETag"}, self.claimed_etags[file.path]
            )
        if file.xet_hash is not None:
            route = f"{self.url}/api/models/{repository.id}/xet-read-token/{repository.commit}"
            headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{route}>; rel="xet-auth"'}
        return headers

    def send_body(self, handler: Handler, request: Request, answer: Answer) -> None:
        """The body, or as much and as quickly as the fault allows."""
        fault = self._take(request, Corrupt, Drop, Stall, Slow)
        if fault is None or not isinstance(answer.body, FileRange):
            super().send_body(handler, request, answer)
            return
        data = bytearray(answer.body.path.read_bytes()[answer.body.start : answer.body.stop])
        if isinstance(fault, Corrupt) and answer.body.start <= fault.at < answer.body.stop:
            data[fault.at - answer.body.start] ^= 1
        end = fault.after if isinstance(fault, Drop | Stall) else len(data)
        self._write(handler, bytes(data[:end]), fault.rate if isinstance(fault, Slow) else 0)
        if isinstance(fault, Stall):
            self.closing.wait(timeout=60)
        if isinstance(fault, Drop | Stall):
            handler.close_connection = True
            cut(handler.connection)

    def _write(self, handler: Handler, data: bytes, rate: int) -> None:
        piece = min(PIECE, max(rate // 20, 1)) if rate else PIECE
        for start in range(0, len(data), piece):
            handler.wfile.write(data[start : start + piece])
            if rate and self.closing.wait(timeout=piece / rate):
                return


def _seen(request: Request) -> Seen:
    return Seen(
        method=request.method,
        path=request.path,
        range=request.header("range"),
        authorization=request.header("authorization"),
        user_agent=request.header("user-agent"),
    )
