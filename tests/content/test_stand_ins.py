"""Something small in the place of a file is reported by the file's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.content.model import check_model
from bundler.content.stand_ins import HEAD_BYTES, stand_in_kind
from bundler.content.wheels.wheel import check_wheel
from bundler.demo.tiny_kimi import write_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 2731453\n"
STAND_INS = {
    "a git-lfs pointer": LFS,
    "a Xet pointer": b"# xet version 0\nfilesize = 5\nhash = 'abc'\n",
    "a git-annex pointer": b"/annex/objects/SHA256E-s5--abc.model\n",
    "a git-annex link": b"../.git/annex/objects/Xx/Yy/SHA256E-s5--abc/SHA256E-s5--abc",
    "an HTML page": b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
    "a page after a comment": b"\xef\xbb\xbf <!-- proxy -->\n<HTML lang=en>blocked</HTML>",
    "an XML error": b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>",
    "an empty file": b"",
    "blanks": b"\0" * 100,
    "a JSON error": b'{"error": "Repository not found", "statusCode": 404}',
    "an error message": b'{"message": "rate limited"}',
    "not found": b"Entry not found",
    "an access error": b"Access to model x/y is restricted. You must be authenticated to access it.",
    "a redirect": b"Temporary Redirect. Redirecting to /api/resolve-cache/x",
}
NAMES = ("tokenizer.model", "tiktoken.model", "merges.txt", "vocab.json", "vocab.txt", "chat_template.jinja")
DOCUMENTS = ("tokenizer.json", "config.json", "generation_config.json", "model.safetensors.index.json")
WEIGHTS = ("model-00001-of-000003.safetensors", "extra.gguf")


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("name", [*NAMES, *DOCUMENTS, *WEIGHTS, "encoding/encoding_dsv4.json"])
def test_a_stand_in_for_what_engines_read_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(STAND_INS[kind])
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    found = check_model(tmp_path, files, format="any").findings
    here = [finding for finding in found if finding.where.startswith(name)]
    assert [(finding.reference, finding.severity) for finding in here] == [("stand-in-file", "error")]


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "figures/benchmark.png", "NOTICE.txt"])
def test_a_stand_in_for_what_people_read_is_a_warning(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(LFS)
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    content = check_model(tmp_path, files, format="any")
    assert content.acceptable
    assert [(f.reference, f.where) for f in content.findings] == [("stand-in-file", name)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("__init__.py", b""),
        (".gitattributes", b""),
        ("requirements.txt", b""),
        ("README.md", b"# Model\nversion https://git-lfs.github.com/spec/v1 begins a pointer"),
        ("README.md", b"<html>\n<img src=logo></html>\n# Model"),
        ("merges.txt", b"#version: 0.2\nn o\nno t\n"),
        ("vocab.txt", b"<s>\n<head>\n<error>\n"),
        ("index.html", b"<html></html>"),
        ("config.json", b'{"error_correction": 1}'),
        ("results.json", b'{"message": "x", "model": "y"}'),
        ("chat_template.jinja", b"{% if error %}not found{% endif %}"),
        ("added_tokens.json", b"{}"),
    ],
)
def test_ordinary_small_files_are_taken_as_they_are(name: str, data: bytes) -> None:
    assert stand_in_kind(name, data[:HEAD_BYTES], len(data)) == ""


@pytest.mark.parametrize("kind", ["a git-lfs pointer", "an HTML page", "an empty file", "a JSON error"])
def test_a_stand_in_for_a_wheel_is_told_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    path.write_bytes(STAND_INS[kind])
    assert [(f.reference, f.where) for f in check_wheel(path)] == [("stand-in-file", path.name)]
