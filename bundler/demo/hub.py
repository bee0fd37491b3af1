"""A Hugging Face Hub on the loopback interface: plain folders, served to the real client.

`ROOT/<owner>/<name>/` is one repository with one branch, `main`. What a git server would store is
computed: blob ids, LFS pointers, tree ids and a commit id, so the same files always have the same commit.
The endpoints are those that `huggingface_hub` 2.x uses for reading. Run it with
`python -m bundler.demo.hub ROOT [--port N]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from bundler.demo.serving import Answer, LoopbackServer, Request, file_answer

LFS_THRESHOLD = 1 << 20
LFS_SUFFIXES = frozenset({".safetensors", ".gguf", ".bin", ".pt"})
"""Stored by LFS whatever their size, as the usual `.gitattributes` of a model repository says."""
PAGE_SIZE = 1000
_SKIPPED_FOLDERS = frozenset({".git", ".cache"})
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_CARD_LINE = re.compile(r"(license|license_name|license_link):\s*(\S.*?)\s*")
_COMMITTER = "sealift <sealift@localhost> 1735689600 +0000"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a repository. `path` is the name it is offered under, `source` where its bytes lie."""

    path: str
    source: Path
    size: int
    blob_sha1: str
    """Git blob id of the bytes themselves."""
    sha256: str
    lfs: bool
    xet_hash: str | None = None

    @property
    def pointer(self) -> bytes:
        """The LFS pointer git holds in place of the bytes (git-lfs specification v1)."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        ).encode()

    @property
    def oid(self) -> str:
        """The git blob id in the tree: of the pointer for LFS files."""
        return git_object_id("blob", self.pointer) if self.lfs else self.blob_sha1

    @property
    def etag(self) -> str:
        """What the Hub sends as ETag: SHA-256 for LFS files, else the git blob id."""
        return self.sha256 if self.lfs else self.blob_sha1


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A folder as the Hub shows it at its only commit."""

    id: str
    commit: str
    files: Mapping[str, HubFile]
    folders: Mapping[str, str]
    """Folder path to git tree id; the root has the empty path."""
    card: Mapping[str, str]
    """Licence lines of the front matter of README.md."""


def git_object_id(kind: str, data: bytes) -> str:
    """The SHA-1 name git gives an object."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


def folder_ids(files: Iterable[HubFile]) -> dict[str, str]:
    """The git tree id of every folder, the root's under the empty path."""
    children: dict[str, dict[bytes, bytes]] = {"": {}}
    ids: dict[str, str] = {}
    for file in files:
        folder = _parent(file.path)
        _add_child(children, folder, file.path, b"100644 ", file.oid)
        while folder:
            children.setdefault(folder, {})
            folder = _parent(folder)
            children.setdefault(folder, {})
    for folder in sorted(children, key=lambda path: -len(PurePosixPath(path).parts)):
        # git sorts a folder as if its name ended in a slash
        ids[folder] = git_object_id(
            "tree", b"".join(children[folder][key] for key in sorted(children[folder]))
        )
        if folder:
            _add_child(children, _parent(folder), folder, b"40000 ", ids[folder])
    return ids


def _add_child(
    children: dict[str, dict[bytes, bytes]], folder: str, path: str, mode: bytes, object_id: str
) -> None:
    name = os.fsencode(path.rsplit("/", 1)[-1])
    key = name + b"/" if mode == b"40000 " else name
    children.setdefault(folder, {})[key] = mode + name + b"\0" + bytes.fromhex(object_id)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def commit_id(tree: str) -> str:
    """The id of a commit of this tree with a fixed author, date and message."""
    text = f"tree {tree}\nauthor {_COMMITTER}\ncommitter {_COMMITTER}\n\nUpload\n"
    return git_object_id("commit", text.encode())


def read_card(readme: Path) -> dict[str, str]:
    """Licence lines of a model card's front matter; empty without a card."""
    if not readme.is_file():
        return {}
    text = readme.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n"):
        return {}
    front = text[4:].split("\n---", 1)[0]
    matches = (_CARD_LINE.fullmatch(line) for line in front.splitlines())
    return {match[1]: match[2].strip("\"'") for match in matches if match}


class LoopbackHub(LoopbackServer):
    """Serves the repositories below `root` while its `with` block lasts.

    A change of a folder shows at once, as a new commit. Subclasses change what a repository holds
    (`files`), who may read it (`refusal`) or what is answered (`answer`).
    """

    def __init__(
        self,
        root: Path,
        *,
        port: int = 0,
        lfs_threshold: int = LFS_THRESHOLD,
        page_size: int = PAGE_SIZE,
    ) -> None:
        super().__init__(port=port)
        self.root = root
        self.lfs_threshold = lfs_threshold
        self.page_size = page_size
        self._digests: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._guard = threading.Lock()

    def repositories(self) -> list[str]:
        """Identifiers of all repositories below the root."""
        folders = (path for path in self.root.glob("*/*") if path.is_dir())
        return sorted(path.relative_to(self.root).as_posix() for path in folders)

    def repository(self, repo: str) -> Repository | None:
        """The repository as it is on disk now; None when there is none of this name."""
        parts = repo.split("/")
        folder = self.root.joinpath(*parts)
        if len(parts) != 2 or not all(map(_NAME.fullmatch, parts)) or not folder.is_dir():
            return None
        files = {file.path: file for file in self.files(repo, folder)}
        folders = folder_ids(files.values())
        card = read_card(folder / "README.md")
        return Repository(id=repo, commit=commit_id(folders[""]), files=files, folders=folders, card=card)

    def files(self, repo: str, folder: Path) -> Iterator[HubFile]:
        """The files of a repository, in code point order of path. Links are not served."""
        paths = (Path(at, name) for at, _, names in _walk(folder) for name in names)
        plain = (path for path in paths if path.is_file() and not path.is_symlink())
        for path in sorted(plain, key=lambda path: path.relative_to(folder).as_posix()):
            yield self._file(path, path.relative_to(folder).as_posix())

    def _file(self, source: Path, path: str) -> HubFile:
        size = source.stat().st_size
        blob_sha1, sha256 = self._digests_of(source)
        lfs = size >= self.lfs_threshold or source.suffix in LFS_SUFFIXES
        return HubFile(path=path, source=source, size=size, blob_sha1=blob_sha1, sha256=sha256, lfs=lfs)

    def _digests_of(self, source: Path) -> tuple[str, str]:
        status = source.stat()
        key = (str(source), status.st_mtime_ns, status.st_size)
        # Held while hashing: two clients that ask at once do not read a large file twice.
        with self._guard:
            if key not in self._digests:
                self._digests[key] = _hash_file(source, status.st_size)
            return self._digests[key]

    def answer(self, request: Request) -> Answer:
        """The Hub's answer."""
        for pattern, method in _ROUTES:
            match = pattern.fullmatch(request.path)
            if match:
                return self._answer_for(request, method, *map(unquote, match.groups(default="")))
        return error_answer(404, "", f"there is nothing at {request.path}")

    def _answer_for(
        self, request: Request, method: str, repo: str, revision: str = "", path: str = ""
    ) -> Answer:
        found = self.repository(repo)
        if found is None:
            # Like the real Hub, which does not tell strangers what exists.
            status = 404 if request.header("authorization") else 401
            return error_answer(status, "RepoNotFound", "Repository not found")
        refused = self.refusal(request, found)
        if refused is not None:
            return refused
        if revision not in self.revisions(found):
            return error_answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        route: Callable[[Request, Repository, str], Answer] = getattr(self, method)
        return route(request, found, path)

    def refusal(self, request: Request, repository: Repository) -> Answer | None:
        """An answer instead of the repository, for who may not read it; here everyone may."""
        return None

    def revisions(self, repository: Repository) -> tuple[str, ...]:
        """Names that mean the repository's commit; the empty one is a request without a revision."""
        return ("", "main", "refs/heads/main", repository.commit)

    def model_info(self, request: Request, repository: Repository, path: str) -> Answer:
        """`GET /api/models/{repo}[/revision/{rev}][?blobs=true]`."""
        blobs = "blobs" in request.query
        value = {
            "id": repository.id,
            "modelId": repository.id,
            "author": repository.id.split("/")[0],
            "sha": repository.commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [f"license:{repository.card['license']}"] if "license" in repository.card else [],
            "lastModified": "2025-01-01T00:00:00.000Z",
            "cardData": dict(repository.card),
            "siblings": [_sibling(file, blobs=blobs) for file in repository.files.values()],
        }
        return json_answer(value)

    def tree(self, request: Request, repository: Repository, path: str) -> Answer:
        """`GET /api/models/{repo}/tree/{rev}[/{path}]`, in pages joined by `Link`."""
        recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
        entries = [entry for entry in _entries(repository) if _is_below(entry["path"], path, deep=recursive)]
        if path and not entries:
            return error_answer(404, "EntryNotFound", f"{path} does not exist")
        start = int(request.query.get("cursor", ["0"])[0])
        page, more = entries[start : start + self.page_size], start + self.page_size < len(entries)
        answer = json_answer(page)
        if not more:
            return answer
        flags = f"recursive={str(recursive).lower()}&cursor={start + self.page_size}"
        return answer.with_headers(Link=f'<{self.url}{request.path}?{flags}>; rel="next"')

    def paths_info(self, request: Request, repository: Repository, path: str) -> Answer:
        """`POST /api/models/{repo}/paths-info/{rev}`; unknown paths are left out."""
        if "json" in request.header("content-type"):
            wanted = json.loads(request.body)["paths"]
        else:
            wanted = parse_qs(request.body.decode()).get("paths", [])
        return json_answer([entry for entry in _entries(repository) if entry["path"] in wanted])

    def refs(self, request: Request, repository: Repository, path: str) -> Answer:
        """`GET /api/models/{repo}/refs`: the one branch."""
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit}
        return json_answer({"branches": [branch], "tags": [], "converts": []})

    def auth_check(self, request: Request, repository: Repository, path: str) -> Answer:
        """`GET /api/models/{repo}/auth-check`: reached only when `refusal` has nothing against it."""
        return json_answer({})

    def resolve(self, request: Request, repository: Repository, path: str) -> Answer:
        """`HEAD|GET /{repo}/resolve/{rev}/{path}`, with ranges."""
        file = repository.files.get(path)
        if file is None:
            answer = error_answer(404, "EntryNotFound", "Entry not found")
            return answer.with_headers(X_Repo_Commit=repository.commit)
        return file_answer(request, file.source, file.size, self.file_headers(repository, file))

    def file_headers(self, repository: Repository, file: HubFile) -> dict[str, str]:
        """What the Hub says about a file: its commit and its digest as ETag."""
        name = quote(file.path.rsplit("/", 1)[-1])
        headers = {
            "X-Repo-Commit": repository.commit,
            "ETag": f'"{file.etag}"',
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f"inline; filename*=UTF-8''{name}",
        }
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        return headers


_REPO, _REVISION = "([^/]+/[^/]+)", "([^/]+)"
_ROUTES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), method)
    for pattern, method in (
        (f"/api/models/{_REPO}", "model_info"),
        (f"/api/models/{_REPO}/refs", "refs"),
        (f"/api/models/{_REPO}/auth-check", "auth_check"),
        (f"/api/models/{_REPO}/revision/{_REVISION}", "model_info"),
        (f"/api/models/{_REPO}/tree/{_REVISION}(?:/(.*))?", "tree"),
        (f"/api/models/{_REPO}/paths-info/{_REVISION}", "paths_info"),
        (f"/{_REPO}/resolve/{_REVISION}/(.+)", "resolve"),
    )
)


def json_answer(value: object, *, status: int = 200) -> Answer:
    """`value` as JSON."""
    return Answer(
        status=status, headers={"Content-Type": "application/json"}, body=json.dumps(value).encode()
    )


def error_answer(status: int, code: str, message: str) -> Answer:
    """A refusal in the Hub's form: `X-Error-Code` is what its client tells errors apart by."""
    answer = json_answer({"error": message}, status=status)
    return answer.with_headers(X_Error_Code=code, X_Error_Message=message) if code else answer


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        yield at, folders, names


def _hash_file(source: Path, size: int) -> tuple[str, str]:
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    sha256 = hashlib.sha256()
    with source.open("rb") as file:
        while piece := file.read(1 << 20):
            blob.update(piece)
            sha256.update(piece)
    return blob.hexdigest(), sha256.hexdigest()


def _sibling(file: HubFile, *, blobs: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        value |= {"size": file.size, "blobId": file.oid}
        if file.lfs:
            value["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return value


def _entries(repository: Repository) -> list[dict[str, Any]]:
    folders = [
        {"type": "directory", "path": path, "oid": oid, "size": 0}
        for path, oid in repository.folders.items()
        if path
    ]
    entries = folders + [_entry(file) for file in repository.files.values()]
    return sorted(entries, key=lambda entry: str(entry["path"]))


def _entry(file: HubFile) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "file", "path": file.path, "oid": file.oid, "size": file.size}
    if file.lfs:
        value["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    if file.xet_hash is not None:
        value["xetHash"] = file.xet_hash
    return value


def _is_below(path: str, folder: str, *, deep: bool) -> bool:
    if folder and not path.startswith(folder + "/"):
        return False
    return deep or _parent(path) == folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve a folder until interrupted; the URL is the first and only line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m bundler.demo.hub", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder that holds <owner>/<name>/ folders")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1; a free one when left out")
    options = parser.parse_args(arguments)
    if not options.root.is_dir():
        parser.error(f"{options.root} is no folder")
    # Blocked before any thread starts, so that they wait for `sigwait` and end no thread half-way.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with LoopbackHub(options.root, port=options.port) as hub:
        for repo in hub.repositories():
            hub.repository(repo)  # hashed now: a client's timeout must not pay for the first reading
        sys.stdout.write(hub.url + "\n")
        sys.stdout.flush()
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
