"""Step 7: what the files claim to be, by their headers: models, wheels and container images.

Which folders hold models is read from the manifest's artifacts. A manifest without artifacts (they are
optional to a verifier) leaves no model to check, which the report says; a policy with rules refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bundler.content.shards import SHARD_SUFFIX
from bundler.content.unsafe_files import PICKLE_SUFFIXES
from bundler.core.manifest import Manifest
from bundler.errors import ExitCode, Finding
from bundler.verification.described_payload import DescribedModel, artifacts, described_models
from bundler.verification.steps import Checked

__all__ = ["ContentsFound", "artifacts", "check_contents", "texts"]

if TYPE_CHECKING:
    from bundler.content.model import ModelContent

GGUF_SUFFIX = ".gguf"
OCI_LAYOUT = "/oci-layout"
WHEEL_SUFFIX = ".whl"
NO_WEIGHTS = "none"
_WEIGHTS = frozenset({SHARD_SUFFIX, GGUF_SUFFIX}) | PICKLE_SUFFIXES
_CODE_AND_TEXT = frozenset(
    [
        ".json",
        ".jsonl",
        ".jinja",
        ".jinja2",
        ".py",
        ".pyi",
        ".ipynb",
        ".md",
        ".rst",
        ".txt",
        ".text",
        ".sh",
        ".yaml",
        ".yml",
        ".toml",
        ".cfg",
        ".ini",
        ".csv",
        ".tsv",
        ".html",
        ".css",
        ".js",
        ".xml",
        ".bib",
        ".tex",
        ".license",
        ".sig",
        ".asc",
        ".pem",
        ".sha256",
        ".lock",
        ".patch",
    ]
) | {""}
_VOCABULARIES = frozenset((".model", ".tiktoken", ".vocab", ".spm", ".bpe", ".merges"))
_PICTURES = frozenset(
    [".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf", ".ico", ".mp4", ".wav", ".mp3"]
)
_KNOWN_SUFFIXES = _WEIGHTS | _CODE_AND_TEXT | _VOCABULARIES | _PICTURES
"""Files of a model that are judged as weights, or that no engine loads as weights."""


@dataclass(frozen=True)
class ContentsFound:
    """The outcome of step 7, and the weight formats that each model's files really have, by artifact id."""

    checked: Checked
    formats: Mapping[str, frozenset[str]] = field(default_factory=dict)


def check_contents(folder: Path, manifest: Manifest) -> ContentsFound:
    """Every model's, wheel's and image layout's headers below `folder`, the bundle's root."""
    models = described_models(manifest)
    wheels = [str(entry.path) for entry in manifest.files if entry.path.endswith(WHEEL_SUFFIX)]
    layouts = [entry.path[: -len(OCI_LAYOUT)] for entry in manifest.files if entry.path.endswith(OCI_LAYOUT)]
    findings: list[Finding] = []
    formats: dict[str, frozenset[str]] = {}
    for model in models:
        faults, found = _model_findings(folder, model)
        findings += faults
        formats[model.id] = formats.get(model.id, frozenset()) | found
    for path in wheels:
        findings += _wheel_findings(folder, path)
    for path in layouts:
        findings += _layout_findings(folder, path)
    checked = Checked(
        findings=tuple(findings),
        detail=f"{len(models)} models, {len(wheels)} wheels, {len(layouts)} image layouts",
        not_checked=() if models else ("model headers: the manifest describes no model",),
    )
    return ContentsFound(checked=checked, formats=formats)


def texts(artifact: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A member that is a list of texts; empty when it is not."""
    value = artifact.get(name, [])
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _text(artifact: Mapping[str, Any], name: str) -> str:
    value = artifact.get(name, "")
    return value if isinstance(value, str) else ""


def _model_findings(folder: Path, model: DescribedModel) -> tuple[list[Finding], frozenset[str]]:
    """What is wrong with a model, and its weight formats as its files show them."""
    from bundler.content.model import check_model

    path = model.folder
    # Only paths that the manifest lists are opened: a hostile `path` such as `..` leads to no file at all.
    if not model.files:
        what = "a model of the manifest has no files"
        return [_finding("empty-model", what, path or "artifacts")], frozenset()
    files = [name[len(path) + 1 :] for name in model.files]
    content = check_model(
        folder / path,
        files,
        format=_text(model.artifact, "format") or "any",
        allow_pickle=texts(model.artifact, "allowPickle"),
        label=path,
    )
    listed = set(texts(model.artifact, "executable"))
    unlisted = [
        _unlisted_code(f"{path}/{name}") for name in content.executable if f"{path}/{name}" not in listed
    ]
    return [*content.findings, *unlisted], _formats(files, content)


def _unlisted_code(path: str) -> Finding:
    # `model.gguf#key` stands for a template inside a file's metadata.
    return _finding(
        "unlisted-code",
        "a model holds code that its manifest does not name",
        path,
        expected="every executable file in the artifact's `executable`",
        found="not listed",
    )


def _formats(files: Sequence[str], content: ModelContent) -> frozenset[str]:
    """The formats that headers show; `pickle` for a waived one, `unknown` for a file no check here knows."""
    found = set(str(content.facts.get("format", NO_WEIGHTS)).split("+"))
    if any(finding.reference.startswith("pickle") for finding in content.findings):
        found.add("pickle")
    if not all(PurePosixPath(path.lower()).suffix in _KNOWN_SUFFIXES for path in files):
        found.add("unknown")
    return frozenset(found)


def _wheel_findings(folder: Path, path: str) -> Iterator[Finding]:
    from bundler.content.wheels.wheel import check_wheel

    name = path.rsplit("/", 1)[-1]
    for finding in check_wheel(folder / path, deep=False):
        yield replace(finding, where=finding.where.replace(name, path, 1))


def _layout_findings(folder: Path, path: str) -> Iterator[Finding]:
    from bundler.content.oci import check_layout

    for finding in check_layout(folder / path):
        yield replace(finding, where=f"{path}/{finding.where}")


def _finding(reference: str, what: str, where: str, *, expected: str = "", found: str = "") -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found,
        hint="ask the release engineer to build the bundle again",
        exit_code=ExitCode.POLICY,
    )
