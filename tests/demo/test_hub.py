"""The loopback Hub serves what the real client understands."""

from __future__ import annotations

import filecmp
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from huggingface_hub import HfApi, RepoFile, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFolder

from bundler.demo.hub import LoopbackHub

REPO = "harbour/tiny-model"
CARD = "---\nlicense: other\nlicense_name: modified-mit\nlicense_link: LICENSE\n---\n# Tiny\n"


def make_repository(root: Path, repo: str = REPO) -> Path:
    """A repository with small and large, nested, empty and non-ASCII files, and things not to serve."""
    folder = root / repo
    (folder / "tokenizer" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "empty.txt").write_bytes(b"")
    (folder / "model-00001-of-00002.safetensors").write_bytes(os.urandom(2_500_000))
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"small but stored by LFS")
    (folder / "tokenizer" / "größe.txt").write_text("umlaut")
    (folder / "tokenizer" / "deep" / "a b%c.txt").write_text("needs quoting")
    (folder / "tokenizer.txt").write_text("sorts before the folder tokenizer/ in git")
    return folder


def served(folder: Path) -> list[str]:
    """Relative paths of all files but those below `.git` and `.cache`."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if path.parts[0] not in (".git", ".cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "hub")


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub", page_size=3) as hub:
        yield hub


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def test_the_real_client_reads_model_info_with_digests(api: HfApi, folder: Path) -> None:
    info = api.model_info(REPO, files_metadata=True, timeout=10)
    assert info.id == REPO
    assert info.siblings is not None
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert sorted(files) == served(folder)
    assert files["config.json"].size == 22
    assert files["config.json"].lfs is None
    lfs = files["model-00001-of-00002.safetensors"].lfs
    assert lfs is not None
    assert lfs.size == 2_500_000
    card = {"license": "other", "license_name": "modified-mit", "license_link": "LICENSE"}
    assert {name: getattr(info.card_data, name) for name in card} == card


def test_the_tree_comes_in_pages_and_agrees_with_model_info(api: HfApi, folder: Path) -> None:
    entries = list(api.list_repo_tree(REPO, recursive=True))
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    assert sorted(files) == served(folder)
    assert [entry.path for entry in entries if isinstance(entry, RepoFolder)] == [
        "tokenizer",
        "tokenizer/deep",
    ]
    for sibling in api.model_info(REPO, files_metadata=True).siblings or []:
        entry = files[sibling.rfilename]
        assert (entry.size, entry.blob_id, entry.lfs) == (sibling.size, sibling.blob_id, sibling.lfs)


def test_a_tree_that_is_not_recursive_shows_one_level(api: HfApi) -> None:
    assert [entry.path for entry in api.list_repo_tree(REPO, "tokenizer")] == [
        "tokenizer/deep",
        "tokenizer/größe.txt",
    ]


def test_paths_info_leaves_out_unknown_paths(api: HfApi) -> None:
    entries = api.get_paths_info(REPO, ["config.json", "absent.json", "tokenizer"])
    assert [entry.path for entry in entries] == ["config.json", "tokenizer"]


def test_snapshot_download_reproduces_the_folder(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    got = Path(
        snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False, etag_timeout=10)
    )
    assert got.name == HfApi(endpoint=hub.url, token=False).model_info(REPO).sha
    assert served(got) == served(folder)
    same, different, odd = filecmp.cmpfiles(folder, got, served(folder), shallow=False)
    assert (sorted(same), different, odd) == (served(folder), [], [])


def test_the_commit_depends_on_the_content_alone(api: HfApi, folder: Path) -> None:
    before = api.model_info(REPO).sha
    os.utime(folder / "config.json", (1, 1))
    assert api.model_info(REPO).sha == before
    (folder / "config.json").write_text('{"model_type": "tinY"}')
    assert api.model_info(REPO).sha != before


def test_the_ids_are_those_of_git(api: HfApi, hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git: apt-get install git")
    repository = hub.repository(REPO)
    assert repository is not None
    work = tmp_path / "work"
    shutil.copytree(folder, work, ignore=shutil.ignore_patterns(".git"))
    for file in repository.files.values():
        if file.lfs:
            (work / file.path).write_bytes(file.pointer)
    for arguments in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *arguments], cwd=work, check=True)
    tree = subprocess.run(["git", "write-tree"], cwd=work, check=True, capture_output=True, text=True)
    assert tree.stdout.strip() == repository.folders[""]


@pytest.mark.parametrize(
    ("repo", "revision", "error"),
    [
        ("harbour/absent", "main", RepositoryNotFoundError),
        (REPO, "v9", RevisionNotFoundError),
        (REPO, "0" * 40, RevisionNotFoundError),
    ],
)
def test_what_is_missing_is_the_error_the_client_knows(
    api: HfApi, repo: str, revision: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        api.model_info(repo, revision=revision)


def test_a_missing_file_names_the_commit(api: HfApi, hub: LoopbackHub, tmp_path: Path) -> None:
    answer = requests.head(f"{hub.url}/{REPO}/resolve/main/absent.json", timeout=5)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "EntryNotFound")
    assert answer.headers["X-Repo-Commit"] == api.model_info(REPO).sha
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, "absent.json", cache_dir=tmp_path / "cache")


def test_links_are_not_served(api: HfApi, folder: Path) -> None:
    (folder / "passwd").symlink_to("/etc/passwd")
    assert "passwd" not in {s.rfilename for s in api.model_info(REPO).siblings or []}


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "../../../etc/passwd", ".git/HEAD"])
def test_nothing_outside_the_repository_is_served(hub: LoopbackHub, name: str) -> None:
    with requests.Session() as session:
        request = requests.Request("GET", hub.url).prepare()
        request.url = f"{hub.url}/{REPO}/resolve/main/{name}"
        assert session.send(request, timeout=5).status_code == 404


@pytest.mark.parametrize(
    ("header", "status", "want", "content_range"),
    [
        ("bytes=0-3", 206, slice(0, 4), "bytes 0-3/2500000"),
        ("bytes=2499998-", 206, slice(-2, None), "bytes 2499998-2499999/2500000"),
        ("bytes=-5", 206, slice(-5, None), "bytes 2499995-2499999/2500000"),
        ("bytes=5-9999999", 206, slice(5, None), "bytes 5-2499999/2500000"),
        ("bytes=2500000-", 416, slice(0, 0), "bytes */2500000"),
        ("bytes=-", 200, slice(None), None),
        ("pages=1-2", 200, slice(None), None),
    ],
)
def test_ranges(
    hub: LoopbackHub, folder: Path, header: str, status: int, want: slice, content_range: str | None
) -> None:
    name = "model-00001-of-00002.safetensors"
    answer = requests.get(f"{hub.url}/{REPO}/resolve/main/{name}", headers={"Range": header}, timeout=10)
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == content_range
    assert answer.content == (folder / name).read_bytes()[want]


def test_a_range_of_another_version_gets_the_whole_file(hub: LoopbackHub) -> None:
    headers = {"Range": "bytes=5-", "If-Range": '"another"'}
    answer = requests.get(f"{hub.url}/{REPO}/resolve/main/config.json", headers=headers, timeout=5)
    assert (answer.status_code, answer.text) == (200, '{"model_type": "tiny"}')


def test_leaving_ends_every_thread_even_with_idle_clients(folder: Path) -> None:
    before = threading.active_count()
    with requests.Session() as session:
        with LoopbackHub(folder.parent.parent) as hub:
            session.get(f"{hub.url}/api/models/{REPO}", timeout=5)
        assert threading.active_count() == before


def test_it_runs_as_a_program(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bundler.demo.hub", str(tmp_path / "hub")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert requests.get(f"{url}/api/models/{REPO}", timeout=5).json()["id"] == REPO
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bundler.demo.hub", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "absent is no folder" in done.stderr
