"""What is known of each artifact's upstream signature, and what the spec demands of it.

The same bytes give the same answer at lock time and at build time, when all digests are known. What is
found becomes the manifest's `source.upstreamSignature`: for people and auditors. Verification in the
perimeter gives nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from packaging.utils import canonicalize_name

from bundler.assembly.artifact_entries import image_id, model_id, wheel_id
from bundler.assembly.signature_status import NONE_OFFERED, Standing, merged
from bundler.assembly.upstream_findings import (
    missing_signature,
    no_publisher,
    unknown_project,
    words,
    wrong_signature,
)
from bundler.content.oci import Descriptor, ImageManifest, parse_manifest
from bundler.core import layout
from bundler.core.evidence import (
    image_blob_path,
    image_evidence,
    image_signatures,
    model_evidence,
    provenance_path,
    trust_path,
)
from bundler.core.specs.lock import (
    Lock,
    LockedAttestationRule,
    LockedEngine,
    LockedImage,
    LockedModel,
    LockedModelFile,
    LockedReferrer,
    LockedSignatureRule,
    LockedWheel,
)
from bundler.core.specs.spec import PublisherSpec
from bundler.errors import AuthenticityError, Finding, SealiftError
from bundler.trust.upstream.expected_signers import (
    KeySigner,
    Signer,
    SigstoreRoot,
    github_signer,
    gitlab_signer,
    identity_signer,
)
from bundler.trust.upstream.image_signatures import (
    SIMPLE_SIGNING_TYPE,
    check_image_bundle,
    check_simple_signing,
)
from bundler.trust.upstream.model_signatures import check_model_signature
from bundler.trust.upstream.provenance import check_provenance, claimed_publishers

NOBODY_PINNED = "nothing: the spec names nobody who should have signed"
Read = Callable[[str], bytes]
"""The bytes of one file of evidence, by its bundle path."""
Sha256Of = Callable[[str], str | None]
"""The SHA-256 of a file of the bundle by its path; None when it is not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """All standings by artifact id, and why the lock or build must be refused."""

    standings: Mapping[str, Standing]
    findings: tuple[Finding, ...]

    def refuse(self) -> None:
        """Raises AuthenticityError when something is signed by another; PolicyError when it is not signed."""
        if self.findings:
            raise SealiftError.of(self.findings)


def assess(lock: Lock, read: Read, sha256_of: Sha256Of) -> Assessment:
    """The upstream signatures of everything in `lock`, from the evidence that `read` gives.

    Raises SealiftError only for what the rules are checked with (`bad-key`, `bad-trusted-root`, `clock`) and
    for evidence that cannot be read.
    """
    return _Assessing(lock, read, sha256_of).run()


@dataclass(slots=True)
class _Assessing:
    lock: Lock
    read: Read
    sha256_of: Sha256Of
    findings: list[Finding] = field(default_factory=list)
    _roots: dict[str, SigstoreRoot] = field(default_factory=dict)

    def run(self) -> Assessment:
        """Artifact after artifact; wheels that several engines share have their best standing."""
        standings = {model_id(model): self._model(model) for model in self.lock.models}
        standings.update({image_id(image): self._image(image) for image in self.lock.images})
        standings.update(self._engines(self.lock.engines, layout.WHEELS))
        standings.update(self._engines(self.lock.tools, layout.TOOLS))
        return Assessment(standings=standings, findings=tuple(self.findings))

    # --- signers ---

    def _signer(self, rule: LockedSignatureRule) -> Signer:
        path = trust_path(rule)
        if rule.key is not None:
            return KeySigner.parse(self.read(path), where=rule.key.source)
        assert rule.identity is not None
        return identity_signer(self._root(rule), issuer=rule.identity.issuer, san=rule.identity.san)

    def _publisher(self, rule: LockedAttestationRule, publisher: PublisherSpec) -> Signer:
        root = self._root(rule)
        if publisher.identity is not None:
            return identity_signer(root, issuer=publisher.identity.issuer, san=publisher.identity.san)
        workflow = publisher.workflow or ""
        if publisher.github is not None:
            return github_signer(root, repository=publisher.github, workflow=workflow)
        assert publisher.gitlab is not None
        return gitlab_signer(root, repository=publisher.gitlab, workflow=workflow)

    def _root(self, rule: LockedSignatureRule | LockedAttestationRule) -> SigstoreRoot:
        """The rule's trusted root, opened once."""
        path = trust_path(rule)
        if path not in self._roots:
            assert rule.trusted_root is not None
            self._roots[path] = SigstoreRoot.open(self.read(path), where=rule.trusted_root.source)
        return self._roots[path]

    # --- one artifact ---

    def _ruled(
        self, artifact: str, alternatives: Sequence[Groups], rule: LockedSignatureRule | None
    ) -> Standing:
        signer = self._signer(rule) if rule else None
        trust = (trust_path(rule),) if rule else ()
        return self._judge(artifact, alternatives, signer, require=bool(rule and rule.require), trust=trust)

    def _judge(
        self,
        artifact: str,
        alternatives: Sequence[Groups],
        signer: Signer | None,
        *,
        require: bool,
        trust: tuple[str, ...] = (),
    ) -> Standing:
        """The standing of an artifact. In one of the alternatives every group needs one good signature."""
        offered = [one for groups in alternatives for group in groups for one in group]
        if not offered:
            if require and signer is not None:
                self.findings.append(missing_signature(artifact, signer))
            return NONE_OFFERED
        evidence = tuple(sorted({path for one in offered for path in one.evidence}))
        present = Standing(state="unverified-present", checked=NOBODY_PINNED, evidence=evidence)
        if signer is None:
            return present
        reasons: list[Finding] = []
        for groups in alternatives:
            good = [_first_good(group, signer, reasons) for group in groups]
            if all(good):
                return merged(
                    [replace(one, evidence=(*one.evidence, *trust)) for one in good if one], weakest=True
                )
        self.findings.append(wrong_signature(artifact, signer, reasons))
        return replace(present, checked="a signature, and it is not the pinned signer's")

    # --- models ---

    def _model(self, model: LockedModel) -> Standing:
        candidates = [
            Candidate(
                evidence=(model_evidence(model, file).path,),
                check=partial(self.check_model, model, file),
            )
            for file in model.signature_files
        ]
        return self._ruled(model_id(model), [[candidates]], model.signature)

    def check_model(self, model: LockedModel, signature: LockedModelFile, signer: Signer) -> str:
        """What was checked. Raises SealiftError when the signature is not `signer`'s over these files."""
        where = f"{model.repo}: {signature.path}"
        data = self.read(model_evidence(model, signature).path)
        signed = check_model_signature(data, signer=signer, where=where)
        files = {
            file.path: self.sha256_of(f"{model.snapshot}/{file.path}") or file.lfs_sha256
            for file in model.files
        }
        faults = signed.faults(files, signatures=frozenset(file.path for file in model.signature_files))
        if faults:
            raise AuthenticityError(
                "other-files-signed",
                "a model's signature is not about the files of its repository",
                where=where,
                found="; ".join(faults[:5])[:600] + (f"; {len(faults) - 5} more" if len(faults) > 5 else ""),
            )
        covered = len(files.keys() & signed.digests.keys())
        return f"OpenSSF Model Signing v1.0, {signature.path}: {covered} of {len(files)} carried files signed"

    # --- images ---

    def _image(self, image: LockedImage) -> Standing:
        """Signed is the image's own digest, or else that of every carried platform."""
        subjects = list(dict.fromkeys((image.digest, *(item.digest for item in image.platforms))))
        signatures: dict[str, list[Candidate]] = {subject: [] for subject in subjects}
        for referrer in image_signatures(image):
            # A signature of a signature says nothing about the image.
            if referrer.subject in signatures:
                evidence = tuple(file.path for file in image_evidence(referrer))
                check = partial(self.check_image, referrer)
                signatures[referrer.subject].append(Candidate(evidence=evidence, check=check))
        parts = [signatures[item.digest] for item in image.platforms]
        return self._ruled(image_id(image), [[signatures[image.digest]], parts], image.signature)

    def check_image(self, referrer: LockedReferrer, signer: Signer) -> str:
        """What was checked. Raises SealiftError when no layer of `referrer` is a signature by `signer`."""
        path = next(image_evidence(referrer)).path
        where = f"{referrer.subject}: {referrer.tag or referrer.digest}"
        manifest = parse_manifest(self.read(path), referrer.media_type, where=where)
        layers = manifest.layers if isinstance(manifest, ImageManifest) else ()
        reasons: list[Finding] = []
        for layer in layers[:MAX_LAYERS]:
            try:
                return f"{self._check_layer(referrer, layer, signer, where)} over {referrer.subject}"
            except SealiftError as error:
                reasons += error.findings
        raise AuthenticityError(
            "not-this-signer", "an image's signature does not count", where=where, found=words(reasons)
        )

    def _check_layer(self, referrer: LockedReferrer, layer: Descriptor, signer: Signer, where: str) -> str:
        data, digest = self.read(image_blob_path(referrer, layer.digest)), referrer.subject
        if layer.media_type == SIMPLE_SIGNING_TYPE:
            return check_simple_signing(data, layer.annotations, digest=digest, signer=signer, where=where)
        return check_image_bundle(data, digest=digest, signer=signer, where=where)

    # --- wheels ---

    def _engines(self, engines: Iterable[LockedEngine], folder: str) -> dict[str, Standing]:
        """By artifact: of one file the best that any engine's rule shows, of several files the weakest."""
        by_file: dict[tuple[str, str], list[Standing]] = {}
        for engine in engines:
            for wheel, standing in self._wheels(engine, folder):
                by_file.setdefault((wheel_id(wheel, folder), wheel.filename), []).append(standing)
        by_artifact: dict[str, list[Standing]] = {}
        for (artifact, _), found in by_file.items():
            by_artifact.setdefault(artifact, []).append(merged(found, weakest=False))
        return {artifact: merged(found, weakest=True) for artifact, found in by_artifact.items()}

    def _wheels(self, engine: LockedEngine, folder: str) -> Iterator[tuple[LockedWheel, Standing]]:
        rule = engine.attestations
        required = {canonicalize_name(name) for name in rule.require} if rule else set()
        unknown = required - {canonicalize_name(wheel.name) for wheel in engine.wheels} - {"*"}
        self.findings += [unknown_project(engine, name) for name in sorted(unknown)]
        for wheel in engine.wheels:
            publisher = _publisher_of(rule, wheel) if rule else None
            wanted = bool(required & {"*", canonicalize_name(wheel.name)})
            if wanted and publisher is None:
                self.findings.append(no_publisher(engine, wheel))
            yield wheel, self._wheel(wheel, folder, rule, publisher, require=wanted)

    def _wheel(
        self,
        wheel: LockedWheel,
        folder: str,
        rule: LockedAttestationRule | None,
        publisher: PublisherSpec | None,
        *,
        require: bool,
    ) -> Standing:
        artifact, path = wheel_id(wheel, folder), provenance_path(wheel)
        candidates: list[Candidate] = []
        if wheel.provenance is not None:
            candidates.append(Candidate(evidence=(path,), check=partial(self.check_wheel, wheel)))
        if rule is None or publisher is None:
            standing = self._judge(artifact, [[candidates]], None, require=False)
            claim = claimed_publishers(self.read(path), where=wheel.filename) if candidates else ""
            return replace(standing, untrusted_claim=claim)
        signer = self._publisher(rule, publisher)
        trust = (trust_path(rule),)
        return self._judge(artifact, [[candidates]], signer, require=require, trust=trust)

    def check_wheel(self, wheel: LockedWheel, signer: Signer) -> str:
        """What was checked. Raises SealiftError when `signer` did not attest this very wheel."""
        data = self.read(provenance_path(wheel))
        attested = check_provenance(
            data, filename=wheel.filename, sha256=wheel.sha256, signer=signer, where=wheel.filename
        )
        return f"PEP 740 attestation of {wheel.filename}: {', '.join(attested.predicate_types)}"


MAX_LAYERS = 64
"""Signatures in one manifest of cosign's; each `cosign sign` adds one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One signature that upstream offers: where it lies, and how it is checked."""

    evidence: tuple[str, ...]
    check: Callable[[Signer], str]
    """What was checked; raises SealiftError."""


Groups = Sequence[Sequence[Candidate]]
"""Signatures by what they must be about; each group needs a good one."""


def _first_good(group: Sequence[Candidate], signer: Signer, reasons: list[Finding]) -> Standing | None:
    """The standing that the first good signature gives; why the others are none goes to `reasons`."""
    for candidate in group:
        try:
            checked = candidate.check(signer)
        except SealiftError as error:
            reasons += error.findings
            continue
        return Standing(
            state="verified", checked=checked, signer=signer.description, evidence=candidate.evidence
        )
    return None


def _publisher_of(rule: LockedAttestationRule, wheel: LockedWheel) -> PublisherSpec | None:
    by_name = {canonicalize_name(item.project): item for item in rule.publishers}
    return by_name.get(canonicalize_name(wheel.name)) or by_name.get(canonicalize_name("*"))
