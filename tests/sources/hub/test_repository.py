"""Models from a Hub are pinned, checked and fetched byte for byte, or refused with the reason."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.core.specs.lock import Lock, LockedModel
from bundler.core.specs.spec import ModelSpec
from bundler.demo.hub import HubFile
from bundler.demo.serving import Answer, Request
from bundler.errors import (
    IntegrityError,
    MachineError,
    MalformedError,
    NetworkError,
    SealiftError,
    UsageError,
)
from bundler.sources.fetch import fetch_all
from bundler.sources.http import ChangedUpstreamError, Timeouts, TransientError
from bundler.sources.hub.access import hub_access
from bundler.sources.hub.client import Patience
from bundler.sources.hub.repository import (
    declared_license,
    model_jobs,
    preview_header,
    read_small,
    read_token,
    resolve_model,
    unmatched_includes,
)
from bundler.sources.retry import RetryPolicy
from bundler.storage.payload import PayloadStore
from tests.servers.hub import (
    Corrupt,
    Drop,
    Fault,
    FaultyHub,
    Grow,
    Refuse,
    Slow,
    Stall,
    Storage,
    Truncate,
)

REPO = "harbour/tiny-model"
SHARD = "model-00001-of-00001.safetensors"
SECRET = "hf_VerySecretTokenOfAPerson"
CARD = "---\nlicense: other\nlicense_name: modified-mit\n---\n# Tiny\n"
RETRIES = RetryPolicy(tries=4, first=0.01, longest=0.05)
PATIENCE = Patience(retries=RETRIES, timeouts=Timeouts(connect=5, stall=10))
HURRY = Patience(retries=RETRIES, timeouts=Timeouts(connect=5, stall=0.3))


ASK_THE_LIBRARY = "import huggingface_hub; print(huggingface_hub.get_token())"
ODD = b'{"id": "harbour/tiny-model", "sha": "%s", "siblings": [{"rfilename": {}}]}' % (b"a" * 40)


def shard_bytes(size: int = 300_000) -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(size)


@pytest.fixture(autouse=True)
def _nobodys_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token, no endpoint and no cache of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nobody"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / REPO
    (folder / "code").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "empty.txt").write_bytes(b"")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / "code" / "modeling tiny.py").write_text("print('#')")
    (folder / "code" / "größe 100%25 #1?.txt").write_text("a name that needs quoting")
    (folder / SHARD).write_bytes(shard_bytes())
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Iterator[FaultyHub]:
    with FaultyHub(tmp_path / "hub", page_size=3) as hub:
        yield hub


def spec(**members: Any) -> ModelSpec:
    return ModelSpec(repo=REPO, **members)


def resolve(hub: FaultyHub, token: str | None = None, **members: Any) -> LockedModel:
    return resolve_model(spec(**members), endpoint=hub.url, token=token or False, patience=PATIENCE)


def fetch(
    model: LockedModel, hub: FaultyHub, at: Path, token: str | None = None, patience: Patience = PATIENCE
) -> Path:
    """Fetch into a store below `at`; gives back the snapshot folder."""
    jobs = model_jobs(model, endpoint=hub.url, token=token or False, patience=patience)
    with PayloadStore(at / "tree", at / "work") as store:
        fetch_all(jobs, store, workers=2, retries=RETRIES)
    return at / "tree" / model.snapshot


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lock_text(model: LockedModel) -> str:
    lock = Lock(spec_sha256="0" * 64, name="n", channel="c", serial=1, models=(model,))
    assert Lock.parse(lock.to_bytes(), where="lock") == lock
    return lock.to_bytes().decode()


def told(error: SealiftError) -> str:
    """Everything an error could show, its chain of causes included."""
    texts = [str(error), repr(error)]
    texts += [str(finding.to_json()) for finding in error.findings]
    cause: BaseException | None = error.__cause__
    while cause is not None:
        texts += [str(cause), repr(cause)]
        cause = cause.__cause__
    return "\n".join(texts)


# -- pinning -----------------------------------------------------------------------------------------


def test_a_model_is_pinned_to_commit_size_and_digest(hub: FaultyHub, folder: Path) -> None:
    model = resolve(hub, license="LicenseRef-Modified-MIT")
    truth = hub.repository(REPO)
    assert truth is not None
    assert (model.commit, model.revision) == (truth.commit, "main")
    assert [file.path for file in model.files] == sorted(truth.files)
    for file in model.files:
        real = truth.files[file.path]
        assert (file.size, file.git_blob_sha1) == (real.size, real.oid)
        assert file.lfs_sha256 == (real.sha256 if real.lfs else None)
    assert (model.declared_license, model.concluded_license) == ("modified-mit", "LicenseRef-Modified-MIT")
    assert (model.gated, model.endpoint) == (False, None)
    assert hub.url not in lock_text(model)


def test_the_same_repository_gives_the_same_lock(hub: FaultyHub) -> None:
    assert lock_text(resolve(hub)) == lock_text(resolve(hub))


def test_a_commit_can_be_asked_for(hub: FaultyHub) -> None:
    commit = resolve(hub).commit
    assert resolve(hub, revision=commit).commit == commit


def test_patterns_choose_files(hub: FaultyHub) -> None:
    model = resolve(hub, include=("*.json", "code/", "*.md", "*.gguf"), exclude=("*.md",))
    assert [file.path for file in model.files] == [
        "code/größe 100%25 #1?.txt",
        "code/modeling tiny.py",
        "config.json",
    ]
    assert unmatched_includes(model) == ("*.md", "*.gguf")


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"include": ("*.gguf", "*.bin")}, "no file matches '*.gguf', '*.bin'"),
        ({"exclude": ("*",)}, "the exclude patterns leave out every file that include takes"),
    ],
)
def test_an_empty_selection_names_the_idle_patterns(
    hub: FaultyHub, members: dict[str, Any], found: str
) -> None:
    with pytest.raises(MalformedError) as caught:
        resolve(hub, **members)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.found) == ("nothing-selected", found)
    assert ".gitattributes" in finding.hint


def test_a_name_that_is_no_identifier_asks_for_an_id(hub: FaultyHub) -> None:
    with pytest.raises(MalformedError, match="bad-model-id") as caught:
        resolve_model(ModelSpec(repo="harbour/Tiny_"), endpoint=hub.url, token=False)
    assert caught.value.findings[0].hint == "give the model an `id:` in the spec"
    assert hub.seen == []


# -- hostile metadata --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../../../../etc/cron.d/x", "it has a component '..'"),
        ("/etc/passwd", "it has a component ''"),
        ("a\\..\\b.txt", "it holds a backslash"),
        ("sub/CON.txt", "the component 'CON.txt' is a reserved name on Windows"),
        ("sub/./x", "it has a component '.'"),
        ("trailing. ", "a component ends in a dot or a space"),
        ("bell\x07.txt", "it holds the control or format character U+0007"),
        ("rtl\u202egpj.py", "it holds the control or format character U+202E"),
        (unicodedata.normalize("NFD", "größe.txt"), "it is not in Unicode normal form C"),
        ("x" * 201, "a component has more than 200 bytes"),
        ("/".join(["y" * 150] * 3), "it has more than 400 characters"),
    ],
)
def test_a_hostile_file_name_is_refused(hub: FaultyHub, name: str, why: str) -> None:
    hub.renamed["config.json"] = name
    with pytest.raises(MalformedError) as caught:
        resolve(hub)
    (finding,) = caught.value.findings
    assert (finding.reference, finding.what) == ("bad-path", f"a file of the model cannot be carried: {why}")
    assert finding.found == repr(name)[:200]


def test_a_hostile_file_name_can_be_excluded(hub: FaultyHub) -> None:
    hub.renamed["config.json"] = "../x"
    assert "../x" not in {file.path for file in resolve(hub, exclude=("..*",)).files}


@pytest.mark.parametrize("name", ["CONFIG.json", "ｃonfig.json", "Code/x", "config.json/x"])
def test_names_that_collide_on_some_file_system_are_refused(hub: FaultyHub, folder: Path, name: str) -> None:
    hub.extra = [
        HubFile(
            path=name, source=folder / "empty.txt", size=0, blob_sha1="e" * 40, sha256="e" * 64, lfs=False
        )
    ]
    with pytest.raises(MalformedError) as caught:
        resolve(hub)
    assert caught.value.reference == "path-collision"


def test_a_file_listed_twice_is_refused(hub: FaultyHub, folder: Path) -> None:
    hub.page_size = 1000
    answer = hub.answer

    def twice(request: Request) -> Answer:
        got = answer(request)
        if "/tree/" not in request.path:
            return got
        assert isinstance(got.body, bytes)
        entries = json.loads(got.body)
        return Answer(headers=got.headers, body=json.dumps([*entries, entries[-1]]).encode())

    hub.answer = twice  # type: ignore[method-assign]
    with pytest.raises(MalformedError) as caught:
        resolve(hub)
    assert caught.value.reference == "duplicate-path"


def test_several_faults_are_told_together(hub: FaultyHub) -> None:
    hub.renamed = {"config.json": "../x", "empty.txt": "/y"}
    hub.hidden_digests.add("README.md")
    with pytest.raises(MalformedError) as caught:
        resolve(hub)
    assert sorted(finding.reference for finding in caught.value.findings) == [
        "bad-path",
        "bad-path",
        "cannot-be-pinned",
    ]


def test_a_file_without_a_digest_cannot_be_pinned(hub: FaultyHub) -> None:
    hub.hidden_digests.add("config.json")
    with pytest.raises(NetworkError) as caught:
        resolve(hub)
    (finding,) = caught.value.findings
    assert (finding.reference, finding.where) == ("cannot-be-pinned", f"{REPO}: config.json")
    assert "nothing would tell whether the right bytes arrive" in finding.what
    assert "exclude" in finding.hint


def test_a_pointer_that_is_not_in_the_commit_is_refused(hub: FaultyHub) -> None:
    hub.claimed_oids[SHARD] = "a" * 40
    with pytest.raises(IntegrityError) as caught:
        resolve(hub)
    (finding,) = caught.value.findings
    assert (finding.reference, finding.where) == ("lfs-pointer-mismatch", f"{REPO}: {SHARD}")
    assert finding.expected == f"git blob {'a' * 40}"


def test_two_listings_that_disagree_are_refused(hub: FaultyHub) -> None:
    answer = hub.answer

    def disagreeing(request: Request) -> Answer:
        hub.claimed_oids = {"config.json": "b" * 40} if "/tree/" in request.path else {}
        return answer(request)

    hub.answer = disagreeing  # type: ignore[method-assign]
    with pytest.raises(IntegrityError) as caught:
        resolve(hub)
    (finding,) = caught.value.findings
    assert (finding.reference, finding.where) == ("hub-disagrees", f"{REPO}: config.json")
    assert "b" * 40 in finding.expected


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"error": "x"}',
        b'{"id": 5}',
        b"<html>a proxy</html>",
        b'{"id": "x/y", "siblings": [3]}',
    ],
)
def test_an_answer_of_something_else_is_no_traceback(hub: FaultyHub, body: bytes) -> None:
    hub.answer = lambda request: Answer(body=body)  # type: ignore[method-assign]
    with pytest.raises((NetworkError, MalformedError)) as caught:
        resolve(hub)
    assert caught.value.reference in ("hub-answer", "model-renamed", "bad-json")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[3]",
        b'[{"type": "file"}]',
        b'[{"path": "x", "size": -1}]',
        b'[{"path": "x", "size": true}]',
        b"<",
    ],
)
def test_a_tree_of_something_else_is_no_traceback(hub: FaultyHub, body: bytes) -> None:
    answer = hub.answer

    def odd(request: Request) -> Answer:
        got = answer(request)
        return Answer(body=body) if "/tree/" in request.path else got

    hub.answer = odd  # type: ignore[method-assign]
    with pytest.raises((NetworkError, MalformedError)) as caught:
        resolve(hub)
    assert caught.value.reference in ("hub-answer", "bad-json")


def test_a_hub_that_answers_with_another_commit_is_refused(hub: FaultyHub, folder: Path) -> None:
    commit = resolve(hub).commit
    (folder / "config.json").write_text("{}")
    hub.revisions = lambda repository: ("", "main", commit, repository.commit)  # type: ignore[method-assign]
    with pytest.raises(IntegrityError) as caught:
        resolve(hub, revision=commit)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.expected) == ("hub-disagrees", commit)


# -- what is missing, gated, moved -------------------------------------------------------------------


def test_a_missing_repository_is_named(hub: FaultyHub) -> None:
    with pytest.raises(NetworkError) as caught:
        resolve_model(ModelSpec(repo="harbour/absent"), endpoint=hub.url, token=False, patience=PATIENCE)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.what) == ("no-such-model", "the Hub shows no model harbour/absent")
    assert "check the spelling" in finding.hint
    assert len(hub.seen) == 1


def test_a_missing_revision_is_named(hub: FaultyHub) -> None:
    with pytest.raises(NetworkError) as caught:
        resolve(hub, revision="v9")
    finding = caught.value.findings[0]
    assert (finding.reference, finding.what) == ("no-such-revision", f"{REPO} has no revision v9")


def test_a_renamed_repository_is_not_followed(hub: FaultyHub) -> None:
    hub.moved = {"harbour/old": REPO}
    with pytest.raises(NetworkError) as caught:
        resolve_model(ModelSpec(repo="harbour/old"), endpoint=hub.url, token=False, patience=PATIENCE)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.expected, finding.found) == ("model-renamed", "harbour/old", REPO)
    assert f"`repo: {REPO}`" in finding.hint


def test_a_gated_repository_says_which_page_to_open(hub: FaultyHub) -> None:
    hub.token = SECRET
    with pytest.raises(NetworkError) as caught:
        resolve(hub)
    finding = caught.value.findings[0]
    assert finding.reference == "gated-model"
    assert finding.what == f"{REPO} is gated: its owner lets in only accounts that accepted the terms"
    page = f"{hub.url}/{REPO}"
    assert finding.hint == (
        f"open {page} and accept the terms, then set HF_TOKEN to a token of yours with read access"
    )
    assert len(hub.seen) == 1  # asking again does not help


def test_a_token_that_was_not_let_in_is_told_apart(hub: FaultyHub) -> None:
    hub.token = SECRET
    other = "hf_OtherToken"
    with pytest.raises(NetworkError) as caught:
        resolve(hub, token=other)
    finding = caught.value.findings[0]
    assert finding.what == f"{REPO} is gated, and the account of your token has not been let in"
    assert other not in told(caught.value)


def test_a_gated_repository_opens_with_the_token_and_the_lock_says_nothing_of_it(
    hub: FaultyHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.token = SECRET
    model = resolve(hub, token=SECRET)
    jobs = model_jobs(model, endpoint=hub.url, token=SECRET, patience=PATIENCE)
    assert contents(fetch(model, hub, tmp_path, token=SECRET)) == contents(hub.root / REPO)
    assert all(seen.authorization == f"Bearer {SECRET}" for seen in hub.seen)
    for text in (lock_text(model), repr(jobs), str(hub_access(endpoint=hub.url, token=SECRET)), caplog.text):
        assert SECRET not in text


def test_a_repository_that_becomes_gated_stops_the_build_with_the_same_sentence(
    hub: FaultyHub, tmp_path: Path
) -> None:
    model = resolve(hub)
    hub.token = SECRET
    with pytest.raises(NetworkError) as caught:
        fetch(model, hub, tmp_path)
    assert {finding.reference for finding in caught.value.findings} == {"gated-model"}
    assert not list((tmp_path / "tree").rglob("*.json"))


@pytest.mark.parametrize("status", [400, 401, 403, 418, 429, 500])
def test_a_token_that_the_server_echoes_is_not_shown(
    hub: FaultyHub, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hub.inject("/api/", Refuse(status=status, code="Odd", message="you sent {authorization}"))
    with pytest.raises(NetworkError) as caught:
        resolve(hub, token=SECRET)
    assert SECRET not in told(caught.value)
    assert SECRET not in caplog.text


def test_offline_mode_is_said(hub: FaultyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError) as caught:
        resolve(hub)
    assert caught.value.findings[0].hint == "unset HF_HUB_OFFLINE on the connected side"


# -- metadata that fails for a while -----------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("part", ["/revision/", "/tree/"])
def test_metadata_is_asked_again(hub: FaultyHub, part: str, status: int) -> None:
    hub.inject(part, Refuse(status=status), times=2)
    assert resolve(hub).commit
    assert len(hub.asked(part)) >= 3


def test_retry_after_is_honoured(hub: FaultyHub) -> None:
    waits: list[float] = []
    hub.inject("/revision/", Refuse(status=429, headers={"Retry-After": "7"}), times=1)
    hub.inject("/tree/", Refuse(status=503, headers={"Retry-After": "11"}), times=1)
    patience = Patience(retries=RETRIES, timeouts=PATIENCE.timeouts, pause=waits.append)
    resolve_model(spec(), endpoint=hub.url, token=False, patience=patience)
    assert waits == [pytest.approx(7, abs=0.1), pytest.approx(11, abs=0.1)]


def test_a_hub_that_stays_busy_ends_after_the_agreed_tries(hub: FaultyHub) -> None:
    hub.inject("/revision/", Refuse(status=503))
    with pytest.raises(TransientError) as caught:
        resolve(hub)
    assert (caught.value.reference, len(hub.seen)) == ("server-busy", RETRIES.tries)


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: FaultyHub) -> None:
    answer = hub.answer

    def silent(request: Request) -> Answer:
        hub.closing.wait(timeout=10)
        return answer(request)

    hub.answer = silent  # type: ignore[method-assign]
    patience = Patience(retries=RetryPolicy(tries=2, first=0.01), timeouts=Timeouts(connect=1, stall=0.1))
    with pytest.raises(TransientError) as caught:
        resolve_model(spec(), endpoint=hub.url, token=False, patience=patience)
    assert caught.value.reference == "stalled"


def test_a_hub_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(TransientError) as caught:
        resolve_model(spec(), endpoint="http://127.0.0.1:9", token=False, patience=PATIENCE)
    assert caught.value.reference == "unreachable"


# -- tokens ------------------------------------------------------------------------------------------


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "token"
    path.parent.mkdir()
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_tokens_are_found_where_the_library_finds_them(token_file: Path, tmp_path: Path) -> None:
    home = {"HF_HOME": str(token_file.parent)}
    assert read_token({"HOME": str(tmp_path)}) is None
    assert read_token({"HF_TOKEN": " hf_a\n", "HUGGING_FACE_HUB_TOKEN": "hf_b", **home}) == "hf_a"
    assert read_token({"HUGGING_FACE_HUB_TOKEN": "hf_b", **home}) == "hf_b"
    assert read_token(home) == SECRET
    assert read_token({"HF_TOKEN_PATH": str(token_file)}) == SECRET
    assert read_token({"HF_TOKEN_PATH": "~/home/token", "HOME": str(tmp_path)}) == SECRET
    assert read_token({"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}) is None


def test_our_rules_for_tokens_are_those_of_the_library(token_file: Path, tmp_path: Path) -> None:
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text("hf_of_the_cache")
    (tmp_path / ".cache" / "huggingface" / "token").chmod(0o600)
    cases: list[dict[str, str]] = [
        {"HF_TOKEN": "hf_a", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
        {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
        {"HF_HOME": str(token_file.parent)},
        {"HF_TOKEN_PATH": str(token_file)},
        {"HOME": str(tmp_path)},
        {"XDG_CACHE_HOME": str(tmp_path / ".cache")},
    ]
    environments = [{"HOME": "/nonexistent", "PATH": os.environ["PATH"], **case} for case in cases]
    # The library reads its environment once, when it is imported: each case in a process of its own.
    running = [
        subprocess.Popen([sys.executable, "-c", ASK_THE_LIBRARY], env=one, stdout=subprocess.PIPE, text=True)
        for one in environments
    ]
    theirs = [process.communicate()[0].strip() for process in running]
    assert theirs == [read_token(one) for one in environments]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_file_that_others_may_read_is_refused(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    with pytest.raises(MachineError) as caught:
        read_token({"HF_HOME": str(token_file.parent)})
    finding = caught.value.findings[0]
    assert (finding.reference, finding.found) == ("token-exposed", f"mode {mode:04o}")
    assert finding.hint == f"`chmod 600 {token_file}`, or set HF_TOKEN"
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize("secret", ["two words", "line\nbreak", "umläut", "x" * 5000])
def test_what_cannot_be_a_token_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_token({"HF_TOKEN": secret})
    assert caught.value.reference == "bad-token"
    assert secret not in told(caught.value)


def test_a_spec_does_not_decide_where_a_token_goes(hub: FaultyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.token = SECRET
    with pytest.raises(NetworkError) as caught:
        resolve_model(spec(endpoint=hub.url), patience=PATIENCE)
    assert {seen.authorization for seen in hub.seen} == {""}
    assert f"set HF_ENDPOINT={hub.url}: a token goes only to a Hub that you name" in (
        caught.value.findings[0].hint
    )
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    model = resolve_model(spec(endpoint=hub.url), patience=PATIENCE)
    assert model.endpoint == hub.url
    assert SECRET not in lock_text(model)


def test_passing_on_what_a_lock_names_is_not_choosing_it(hub: FaultyHub, tmp_path: Path) -> None:
    model = resolve(hub).model_copy(update={"endpoint": hub.url})
    jobs = model_jobs(model, endpoint=model.endpoint, token=SECRET, patience=PATIENCE)
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        fetch_all(jobs, store, retries=RETRIES)
    assert {seen.authorization for seen in hub.seen} == {""}


def test_a_token_is_not_sent_unencrypted_to_another_machine() -> None:
    with pytest.raises(UsageError) as caught:
        hub_access(endpoint="http://hub.example", token=SECRET)
    assert caught.value.reference == "token-in-clear"
    assert hub_access(endpoint="http://hub.example", token=False).token is None


@pytest.mark.parametrize(
    "url",
    ["ftp://hub.example", "hub.example", "https://u:pw@hub.example", "https://hub.example?x=1", "http://[x"],
)
def test_an_address_that_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        hub_access(named=url, token=False, environment={})
    assert caught.value.reference == "bad-endpoint"
    assert "pw" not in told(caught.value)


def test_the_token_does_not_follow_a_redirect_to_another_origin(hub: FaultyHub, tmp_path: Path) -> None:
    hub.token = SECRET
    with Storage() as storage:
        hub.storage = storage
        model = resolve(hub, token=SECRET)
        assert contents(fetch(model, hub, tmp_path, token=SECRET)) == contents(hub.root / REPO)
        assert len(storage.seen) == len([file for file in model.files if file.size])
        assert {seen.authorization for seen in storage.seen} == {""}
    assert all(seen.authorization == f"Bearer {SECRET}" for seen in hub.seen)


# -- fetching ----------------------------------------------------------------------------------------


def test_the_repository_is_reproduced_and_the_real_client_uses_it_in_place(
    hub: FaultyHub, tmp_path: Path
) -> None:
    model = resolve(hub)
    snapshot = fetch(model, hub, tmp_path)
    assert contents(snapshot) == contents(hub.root / REPO)
    assert not any(path.is_symlink() for path in (tmp_path / "tree").rglob("*"))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(model.commit)
    before = sorted((tmp_path / "tree").rglob("*"))
    script = (
        "import huggingface_hub as h;"
        f"print(h.snapshot_download({REPO!r}));"
        f"print(h.hf_hub_download({REPO!r}, 'config.json'))"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "tree" / "payload" / "models"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(snapshot), str(snapshot / "config.json")]
    assert sorted((tmp_path / "tree").rglob("*")) == before


def test_a_second_fetch_asks_for_nothing(hub: FaultyHub, tmp_path: Path) -> None:
    model = resolve(hub)
    fetch(model, hub, tmp_path)
    hub.seen.clear()
    fetch(model, hub, tmp_path)
    assert hub.seen == []


@pytest.mark.parametrize(
    "fault",
    [
        Drop(after=100_000),
        Stall(after=100_000),
        Refuse(status=503),
        Refuse(status=429, headers={"Retry-After": "0"}),
    ],
    ids=[
        "the connection drops",
        "the server falls silent",
        "the server is busy",
        "there are too many requests",
    ],
)
def test_what_passes_is_survived(hub: FaultyHub, tmp_path: Path, fault: Fault) -> None:
    model = resolve(hub)
    hub.inject(SHARD, fault, times=2)
    patience = HURRY if isinstance(fault, Stall) else PATIENCE
    assert contents(fetch(model, hub, tmp_path, patience=patience)) == contents(hub.root / REPO)
    ranges = [seen.range for seen in hub.asked(SHARD)]
    assert len(ranges) >= 3
    if not isinstance(fault, Refuse):
        assert ranges[0] == ""
        assert all(after.startswith("bytes=") for after in ranges[1:])


def test_a_slow_server_is_waited_for(hub: FaultyHub, tmp_path: Path) -> None:
    model = resolve(hub, include=("*.safetensors",))
    hub.inject(SHARD, Slow(rate=600_000))
    fetch(model, hub, tmp_path)
    assert len(hub.asked(SHARD)) == 1


@pytest.mark.parametrize(
    ("path", "fault", "reference"),
    [
        (SHARD, Corrupt(at=200_000), "digest-mismatch"),
        ("config.json", Corrupt(at=3), "digest-mismatch"),
        (SHARD, Truncate(to=1000), "size-changed"),
        (SHARD, Grow(by=1), "size-changed"),
    ],
    ids=["a flipped bit in a shard", "a flipped bit in a small file", "a shorter shard", "a longer shard"],
)
def test_other_bytes_are_refused_and_nothing_is_left_in_the_tree(
    hub: FaultyHub, tmp_path: Path, path: str, fault: Fault, reference: str
) -> None:
    model = resolve(hub, include=(path,))
    hub.inject(path, fault)
    with pytest.raises((IntegrityError, NetworkError)) as caught:
        fetch(model, hub, tmp_path)
    assert caught.value.reference == reference
    assert [path for path in (tmp_path / "tree").rglob("*") if path.is_file()] == []


def test_a_commit_that_moved_after_the_lock_stops_the_build(hub: FaultyHub, tmp_path: Path) -> None:
    model = resolve(hub)
    hub.claimed_commit = "c" * 40
    with pytest.raises(ChangedUpstreamError) as caught:
        fetch(model, hub, tmp_path)
    finding = caught.value.findings[0]
    assert finding.reference == "upstream-changed"
    assert finding.expected.lower() == f"x-repo-commit: {model.commit}"
    assert finding.found.lower() == f"x-repo-commit: {'c' * 40}"
    assert "sealift lock --check" in finding.hint


def test_an_etag_that_changed_stops_the_build(hub: FaultyHub, tmp_path: Path) -> None:
    model = resolve(hub)
    hub.claimed_etags[SHARD] = f'"{"0" * 64}"'
    with pytest.raises(ChangedUpstreamError) as caught:
        fetch(model, hub, tmp_path)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.found) == ("upstream-changed", f"etag: {'0' * 64}")


def test_a_commit_that_is_gone_is_named(hub: FaultyHub, folder: Path, tmp_path: Path) -> None:
    model = resolve(hub)
    (folder / "config.json").write_text("{}")
    with pytest.raises(NetworkError) as caught:
        fetch(model, hub, tmp_path)
    assert {finding.reference for finding in caught.value.findings} == {"no-such-revision"}
    assert model.commit in caught.value.findings[0].what


# -- previews -----------------------------------------------------------------------------------------


def test_the_header_of_a_shard_is_read_without_the_shard(hub: FaultyHub, folder: Path) -> None:
    model = resolve(hub)
    file = next(file for file in model.files if file.path == SHARD)
    header = preview_header(model, file, endpoint=hub.url, token=False, patience=PATIENCE)
    data = (folder / SHARD).read_bytes()
    assert header == data[: 8 + struct.unpack("<Q", data[:8])[0]]
    assert [seen.range for seen in hub.asked(SHARD)] == ["bytes=0-7", f"bytes=0-{len(header) - 1}"]


@pytest.mark.parametrize("length", [0, 1, 2**62, 300_000])
def test_a_header_length_that_cannot_be_is_refused(hub: FaultyHub, folder: Path, length: int) -> None:
    (folder / SHARD).write_bytes(struct.pack("<Q", length) + bytes(1000))
    model = resolve(hub)
    file = next(file for file in model.files if file.path == SHARD)
    with pytest.raises(MalformedError) as caught:
        preview_header(model, file, endpoint=hub.url, token=False, patience=PATIENCE)
    assert (caught.value.reference, caught.value.findings[0].found) == ("bad-header-length", str(length))


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny.safetensors"])
def test_a_file_shorter_than_a_header_is_no_traceback(hub: FaultyHub, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"GGUF")
    model = resolve(hub)
    file = next(file for file in model.files if file.path == name)
    expected = contextlib.nullcontext() if name.endswith(".gguf") else pytest.raises(MalformedError)
    with expected:
        header = preview_header(model, file, endpoint=hub.url, token=False, patience=PATIENCE)
        assert header == b"GGUF"


def test_small_files_are_read_and_checked(hub: FaultyHub, folder: Path) -> None:
    model = resolve(hub)
    for path in ("config.json", "empty.txt", SHARD):
        data = read_small(model, path, endpoint=hub.url, token=False, patience=PATIENCE)
        assert data == (folder / path).read_bytes()


@pytest.mark.parametrize("path", ["config.json", SHARD])
def test_small_files_with_other_bytes_are_refused(hub: FaultyHub, path: str) -> None:
    model = resolve(hub)
    hub.inject(path, Corrupt(at=5))
    with pytest.raises(IntegrityError) as caught:
        read_small(model, path, endpoint=hub.url, token=False, patience=PATIENCE)
    assert caught.value.reference == "digest-mismatch"


def test_what_is_not_small_or_not_locked_is_not_read(hub: FaultyHub) -> None:
    model = resolve(hub)
    hub.seen.clear()
    with pytest.raises(MalformedError, match="too-large"):
        read_small(model, SHARD, 1000, endpoint=hub.url, token=False)
    with pytest.raises(MalformedError, match="not-locked"):
        read_small(model, "absent.json", endpoint=hub.url, token=False)
    assert hub.seen == []


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"license": "mit"}, "mit"),
        ({"license": "other", "license_name": "modified-mit"}, "modified-mit"),
        ({"license": "other"}, "other"),
        ({"license": ["mit", "apache-2.0"]}, "mit, apache-2.0"),
        ({"license": 5}, None),
        ({"license": "  "}, None),
        ({"license": "mit\x1b[2J\ud800\n"}, "mit[2J"),
        ({"license": "x" * 900}, "x" * 400),
        ({}, None),
    ],
)
def test_declared_licences(members: dict[str, Any], expected: str | None) -> None:
    assert declared_license(members) == expected
    assert declared_license({}) is None
