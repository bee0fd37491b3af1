"""Step 7: what the files claim to be, by their headers: models, wheels and container images.

Which folders hold what is read from the manifest's artifacts; a manifest without artifacts (they are
optional to a verifier) leaves nothing to check, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundler.core.manifest import Manifest
from bundler.errors import ExitCode, Finding
from bundler.verification.steps import Checked

OCI_LAYOUT = "/oci-layout"
WHEEL_SUFFIX = ".whl"


def check_contents(folder: Path, manifest: Manifest) -> Checked:
    """Every model's, wheel's and image layout's headers below `folder`, the bundle's root."""
    models = [item for item in artifacts(manifest) if item.get("kind") == "model" and _text(item, "path")]
    wheels = [str(entry.path) for entry in manifest.files if entry.path.endswith(WHEEL_SUFFIX)]
    layouts = [entry.path[: -len(OCI_LAYOUT)] for entry in manifest.files if entry.path.endswith(OCI_LAYOUT)]
    findings: list[Finding] = []
    for model in models:
        findings += _model_findings(folder, manifest, model)
    for path in wheels:
        findings += _wheel_findings(folder, path)
    for path in layouts:
        findings += _layout_findings(folder, path)
    return Checked(
        findings=tuple(findings),
        detail=f"{len(models)} models, {len(wheels)} wheels, {len(layouts)} image layouts",
        not_checked=() if models else ("model headers: the manifest describes no model",),
    )


def artifacts(manifest: Manifest) -> list[Mapping[str, Any]]:
    """The manifest's artifacts; those that are no objects are left out."""
    value = manifest.members.get("artifacts", [])
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(artifact: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A member that is a list of texts; empty when it is not."""
    value = artifact.get(name, [])
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _text(artifact: Mapping[str, Any], name: str) -> str:
    value = artifact.get(name, "")
    return value if isinstance(value, str) else ""


def _model_findings(folder: Path, manifest: Manifest, model: Mapping[str, Any]) -> Iterator[Finding]:
    from bundler.content.model import check_model

    path = _text(model, "path")
    files = [entry.path[len(path) + 1 :] for entry in manifest.files if entry.path.startswith(f"{path}/")]
    # Only paths that the manifest lists are opened: a hostile `path` such as `..` leads to no file at all.
    if not files:
        yield _finding("empty-model", "a model of the manifest has no files", path or "artifacts")
        return
    content = check_model(
        folder / path,
        files,
        format=_text(model, "format") or "any",
        allow_pickle=texts(model, "allowPickle"),
        label=path,
    )
    yield from content.findings
    listed = set(texts(model, "executable"))
    for name in content.executable:
        # `model.gguf#key` stands for a template inside a file's metadata.
        if f"{path}/{name}" not in listed:
            yield _finding(
                "unlisted-code",
                "a model holds code that its manifest does not name",
                f"{path}/{name}",
                expected="every executable file in the artifact's `executable`",
                found="not listed",
            )


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
