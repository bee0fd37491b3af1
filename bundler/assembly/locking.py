"""From spec to lock: every name that can move becomes a commit, a size, a digest, or is refused in words."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from bundler.assembly.early_models import EarlyReader, document_findings, hub_reader, located
from bundler.assembly.launch_rules import refuse_profiles
from bundler.assembly.pinned_files import pinned_files
from bundler.assembly.upstream import assess
from bundler.assembly.upstream_rules import attestation_rule, signature_rule
from bundler.core.evidence import rules_of
from bundler.core.paths import path_set_findings
from bundler.core.specs.lock import Lock, LockedEngine, LockedFile, LockedImage, LockedModel
from bundler.core.specs.spec import DocumentSpec, EngineSpec, FileSpec, ImageSpec, LaunchSpec, ModelSpec, Spec
from bundler.engines.runtime_fetches import runtime_fetch_findings
from bundler.errors import ExitCode, Finding, MalformedError, SealiftError

DocumentKind = Literal["license", "document"]
Item = TypeVar("Item")
Locked = TypeVar("Locked")


class FileResolver(Protocol):
    """`sources.files.resolve_file`."""

    def __call__(self, spec: FileSpec | DocumentSpec, base: Path, *, kind: DocumentKind = ...) -> LockedFile:
        """The file with its size and digest."""


def _fetched_evidence(lock: Lock, spec: Spec, base: Path) -> Callable[[str], bytes]:
    from bundler.assembly.fetch_jobs import evidence_reader

    return evidence_reader(lock, spec, base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolvers:
    """Who pins what: the sources, or doubles of them."""

    model: Callable[[ModelSpec], LockedModel]
    engine: Callable[[EngineSpec], LockedEngine]
    tools: Callable[[Sequence[LockedEngine]], tuple[LockedEngine, ...]]
    image: Callable[[ImageSpec], LockedImage]
    file: FileResolver
    early: EarlyReader | None = None
    """Reads small documents of models; None judges nothing early."""
    evidence: Callable[[Lock, Spec, Path], Callable[[str], bytes]] = _fetched_evidence
    """Gives the bytes of evidence by bundle path, for artifacts whose signer the spec pins."""

    @classmethod
    def of_sources(cls) -> Resolvers:
        """The real ones: a Hub, package indexes, registries and this machine's files."""
        from bundler.sources.files import resolve_file
        from bundler.sources.hub.repository import resolve_model
        from bundler.sources.images.images import resolve_image
        from bundler.sources.wheels.tools import resolve_tools
        from bundler.sources.wheels.wheels import resolve_engine

        return cls(
            model=resolve_model,
            engine=resolve_engine,
            tools=resolve_tools,
            image=resolve_image,
            file=resolve_file,
            early=hub_reader(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One pinned thing that upstream would answer differently today."""

    where: str
    locked: str
    now: str

    def finding(self) -> Finding:
        """The change as a finding. Nothing is wrong with the lock: someone has to decide (exit 12)."""
        return Finding(
            reference="upstream-moved",
            what="locking again would pin something else",
            where=self.where,
            expected=f"{self.locked}, as locked",
            found=self.now,
            hint="`sealift lock SPEC` takes what is there now; review the difference first",
            severity="warning",
            exit_code=ExitCode.POLICY,
        )


def make_lock(
    spec: Spec,
    spec_bytes: bytes,
    base: Path,
    *,
    resolvers: Resolvers | None = None,
    say: Callable[[str], None] = lambda _text: None,
    warn: Callable[[Finding], None] = lambda _finding: None,
) -> Lock:
    """`spec` with every name pinned. The same answers from upstream give the same lock, byte for byte.

    `base` is the folder that local paths are relative to; `say` gets what is being pinned, `warn` what is
    odd about a model but stops no engine. Nothing is written. Raises a SealiftError with the findings of all
    items that cannot be pinned; MalformedError (`model-file`, `duplicate-path`, `path-collision`,
    `conflicting-files`); AuthenticityError (`upstream-signature`) and PolicyError
    (`upstream-signature-missing`, and what a launch would refuse of a profile).
    """
    pinning = _Pinning(resolvers or Resolvers.of_sources(), base, say, warn)
    models = pinning.each("model", spec.models, lambda one: one.repo, pinning.model)
    engines = pinning.each("engine", spec.engines, lambda one: one.requirement, pinning.engine)
    tools = pinning.tools(engines)
    images = pinning.each("image", spec.images, lambda one: one.reference, pinning.image)
    files = pinning.files(spec)
    pinning.refuse()
    lock = Lock(
        spec_sha256=hashlib.sha256(spec_bytes).hexdigest(),
        name=spec.name,
        channel=spec.channel,
        serial=spec.serial,
        models=models,
        engines=engines,
        tools=tools,
        images=images,
        files=files,
        launch=_with_model_files(spec.launch, models),
        node=spec.node,
    )
    _refuse_conflicts(lock)
    refuse_profiles(lock)
    if rules_of(lock):
        say("checking upstream signatures")
        # Digests that no Hub tells are not known yet; the build compares all of them.
        assess(lock, pinning.resolvers.evidence(lock, spec, base), lambda _path: None).refuse()
    return lock


@dataclass(slots=True)
class _Pinning:
    """Resolves item after item and keeps what could not be pinned."""

    resolvers: Resolvers
    base: Path
    say: Callable[[str], None]
    warn: Callable[[Finding], None]
    errors: list[SealiftError] = field(default_factory=list)

    def each(
        self,
        kind: str,
        items: Iterable[Item],
        name: Callable[[Item], str],
        resolve: Callable[[Item], Locked],
    ) -> tuple[Locked, ...]:
        """All items that can be pinned; the faults of the others are kept."""
        pinned = []
        for item in items:
            self.say(f"pinning {kind} {name(item)}")
            try:
                pinned.append(resolve(item))
            except SealiftError as error:
                self.errors.append(error)
        return tuple(pinned)

    def model(self, spec: ModelSpec) -> LockedModel:
        """The model with the rule about its signer."""
        rule = signature_rule(spec.signature, self.base)
        model = self.resolvers.model(spec).model_copy(update={"signature": rule})
        self._judge(model)
        return model

    def _judge(self, model: LockedModel) -> None:
        """Raises what listing and documents already show of a model that no engine would load."""
        if self.resolvers.early is None:
            return
        self.say(f"reading the small files of {model.repo}")
        findings = located(model, document_findings(model, self.resolvers.early))
        errors = [finding for finding in findings if finding.is_error]
        if errors:
            raise SealiftError.of(errors)
        for finding in findings:
            self.warn(finding)

    def image(self, spec: ImageSpec) -> LockedImage:
        """The image with the rule about its signer."""
        rule = signature_rule(spec.signature, self.base)
        return self.resolvers.image(spec).model_copy(update={"signature": rule})

    def engine(self, spec: EngineSpec) -> LockedEngine:
        """The engine with the rule about its publishers."""
        rule = attestation_rule(spec.attestations, self.base)
        return self.resolvers.engine(spec).model_copy(update={"attestations": rule})

    def tools(self, engines: Sequence[LockedEngine]) -> tuple[LockedEngine, ...]:
        """What installs sealift itself on the machines of the engines; nothing without engines."""
        found = self.each("tools for", [engines] if engines else [], _targets, self.resolvers.tools)
        return found[0] if found else ()

    def files(self, spec: Spec) -> tuple[LockedFile, ...]:
        """Files, licence texts and documents."""

        def document(item: FileSpec | DocumentSpec) -> LockedFile:
            return self.resolvers.file(item, self.base, kind="document")

        def license_text(item: DocumentSpec) -> LockedFile:
            return self.resolvers.file(item, self.base, kind="license")

        return (
            *self.each("file", spec.files, lambda item: item.path, document),
            *self.each("licence", spec.licenses, lambda item: item.source, license_text),
            *self.each("document", spec.documents, lambda item: item.source, document),
        )

    def refuse(self) -> None:
        """Raise everything that could not be pinned."""
        if self.errors:
            findings = [finding for error in self.errors for finding in error.findings]
            raise SealiftError.of(findings)


def _targets(engines: Sequence[LockedEngine]) -> str:
    return ", ".join(sorted({f"{engine.platform} with Python {engine.python}" for engine in engines}))


def _with_model_files(launch: Iterable[LaunchSpec], models: Iterable[LockedModel]) -> tuple[LaunchSpec, ...]:
    """The profiles with each `modelFile` pattern replaced by the one file it names.

    Raises MalformedError (`model-file`) when it names none or several.
    """
    by_id = {model.id: model for model in models}
    pinned, findings = [], []
    for profile in launch:
        if profile.model_file is None:
            pinned.append(profile)
            continue
        paths = [file.path for file in by_id[profile.model].files]
        matching = _matching(paths, profile.model_file)
        if len(matching) == 1:
            pinned.append(profile.model_copy(update={"model_file": matching[0]}))
        else:
            findings.append(_bad_model_file(profile, matching or paths))
    if findings:
        raise MalformedError.of(findings)
    return tuple(pinned)


def _matching(paths: Sequence[str], pattern: str) -> list[str]:
    """The path that is `pattern`, or all that it matches."""
    return [pattern] if pattern in paths else fnmatch.filter(paths, pattern)


def _bad_model_file(profile: LaunchSpec, paths: Sequence[str]) -> Finding:
    shown = sorted(path for path in paths if path.endswith((".gguf", ".safetensors"))) or sorted(paths)
    return Finding(
        reference="model-file",
        what="a launch profile does not name one file of the model",
        where=f"launch profile {profile.profile}: modelFile",
        expected=f"one file that matches {profile.model_file}",
        found=", ".join(shown[:5])[:300] or "no files",
        hint="name the file as the repository does; of a sharded GGUF the first shard",
        exit_code=ExitCode.MALFORMED,
    )


def _refuse_conflicts(lock: Lock) -> None:
    """Raises MalformedError when two different files would be in one place on some file system."""
    sizes: dict[str, int] = {}
    findings = []
    for file in pinned_files(lock):
        if sizes.setdefault(file.path, file.size) != file.size:
            findings.append(_conflict(file.path, sizes[file.path], file.size))
    findings += path_set_findings(sizes, where="the bundle as locked")
    own = [item.path for item in lock.files]
    findings += path_set_findings(own, where="files, licenses and documents")
    if findings:
        raise MalformedError.of(findings)


def _conflict(path: str, first: int, second: int) -> Finding:
    return Finding(
        reference="conflicting-files",
        what="two items want different bytes under one path",
        where=path,
        expected=f"{first} bytes",
        found=f"{second} bytes",
        exit_code=ExitCode.MALFORMED,
    )


# Whether upstream moved.


def lock_changes(lock: Lock, now: Lock) -> tuple[Change, ...]:
    """What differs between `lock` and `now`, the same spec pinned again: empty when upstream did not move."""
    changes: list[Change] = []
    if lock.spec_sha256 != now.spec_sha256:
        changes.append(_change("the spec itself", f"sha256:{lock.spec_sha256}", f"sha256:{now.spec_sha256}"))
    changes += _between("model", lock.models, now.models, lambda one: one.id, _model_changes)
    changes += _between("engine", lock.engines, now.engines, lambda one: one.id, _engine_changes)
    changes += _between("tools", lock.tools, now.tools, lambda one: one.folder, _engine_changes)
    changes += _between("image", lock.images, now.images, lambda one: one.reference, _image_changes)
    changes += _between("file", lock.files, now.files, lambda one: one.path, _file_changes)
    if not changes and lock.to_bytes() != now.to_bytes():
        changes.append(_change("the lock", f"sha256:{lock.sha256}", f"sha256:{now.sha256}"))
    return tuple(changes)


def _change(where: str, locked: str, now: str) -> Change:
    return Change(where=where, locked=locked, now=now)


def _between(
    kind: str,
    locked: Iterable[Any],
    now: Iterable[Any],
    key: Callable[[Any], str],
    compare: Callable[[str, Any, Any], list[Change]],
) -> list[Change]:
    """Changes of one kind of items, matched by `key`."""
    before, after = {key(one): one for one in locked}, {key(one): one for one in now}
    changes = []
    for name in sorted(before.keys() | after.keys()):
        where = f"{kind} {name}"
        if name not in after or name not in before:
            changes.append(_change(where, *(("here", "gone") if name in before else ("nothing", "new"))))
        elif before[name] != after[name]:
            # An item can differ in what no comparison names (a licence, a flag): it is reported all the same.
            found = compare(where, before[name], after[name])
            changes += found or [_change(where, "its members", "others; `sealift diff` shows them")]
    return changes


def _model_changes(where: str, before: LockedModel, after: LockedModel) -> list[Change]:
    changes = []
    if before.commit != after.commit:
        changes.append(
            _change(f"{where}@{before.revision}", f"commit {before.commit}", f"commit {after.commit}")
        )
    old = {file.path: file.lfs_sha256 or file.git_blob_sha1 for file in before.files}
    new = {file.path: file.lfs_sha256 or file.git_blob_sha1 for file in after.files}
    return changes + _named_changes(where, old, new)


def _engine_changes(where: str, before: LockedEngine, after: LockedEngine) -> list[Change]:
    old = {wheel.name: f"{wheel.filename} sha256:{wheel.sha256}" for wheel in before.wheels}
    new = {wheel.name: f"{wheel.filename} sha256:{wheel.sha256}" for wheel in after.wheels}
    return _named_changes(where, old | _provenances(before), new | _provenances(after))


def _provenances(engine: LockedEngine) -> dict[str, str]:
    return {
        f"attestations of {wheel.name}": f"sha256:{wheel.provenance.sha256}"
        for wheel in engine.wheels
        if wheel.provenance is not None
    }


def _image_changes(where: str, before: LockedImage, after: LockedImage) -> list[Change]:
    old = {"digest": before.digest} | {one.tag or one.digest: one.digest for one in before.referrers}
    new = {"digest": after.digest} | {one.tag or one.digest: one.digest for one in after.referrers}
    return _named_changes(where, old, new)


def _file_changes(where: str, before: LockedFile, after: LockedFile) -> list[Change]:
    if before.sha256 == after.sha256:
        return []
    return [_change(where, f"sha256:{before.sha256}", f"sha256:{after.sha256}")]


def _named_changes(where: str, old: dict[str, str], new: dict[str, str]) -> list[Change]:
    """One change for each name whose value differs."""
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [_change(f"{where}: {name}", old.get(name, "nothing"), new.get(name, "nothing")) for name in names]


def spec_warnings(spec: Spec, lock: Lock) -> tuple[Finding, ...]:
    """What is allowed but often a slip: include patterns without effect, engines without a date."""
    warnings = []
    if lock.models:
        from bundler.sources.hub.repository import unmatched_includes

        for model, pattern in ((one, pattern) for one in lock.models for pattern in unmatched_includes(one)):
            what = "an include pattern matches no file of the repository"
            warnings.append(_warning("pattern-without-files", what, f"model {model.id}: {pattern}"))
    wheels = {engine.id: len(engine.wheels) for engine in lock.engines}
    for engine in spec.engines:
        if engine.exclude_newer is None and wheels.get(engine.identifier, 0) > 1:
            what = "an engine without excludeNewer takes dependencies nobody tested with it"
            warnings.append(_warning("no-date", what, f"engine {engine.identifier}"))
    for locked in lock.engines:
        versions = {wheel.name: wheel.version for wheel in locked.wheels}
        warnings += runtime_fetch_findings(locked.name, versions, where=f"engine {locked.id}")
    return tuple(warnings)


def _warning(reference: str, what: str, where: str) -> Finding:
    return Finding(reference=reference, what=what, where=where, severity="warning", exit_code=ExitCode.PASSED)
