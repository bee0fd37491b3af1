"""What is looked at in each step, for one bundle: the part that `verify.pyz` shares (steps 1-6 and 8).

An checks is filled step by step; each method is one step of format.md section 8 and may rely on the
ones before it. Everything is opened relative to one descriptor of the bundle's folder, without following
links, and the manifest's bytes are read once. Standard library only, Python 3.9.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bundler.core.chunks import FileChunks, chunk_count, split_chunk_list
from bundler.core.manifest import ATTESTATIONS, MANIFEST_NAME, FileEntry, Manifest
from bundler.core.paths import path_fault, path_set_findings
from bundler.core.progress import Progress, SilentProgress
from bundler.core.strict_json import ATTESTATION_LIMIT, MANIFEST_LIMIT
from bundler.core.units import format_bytes
from bundler.errors import AuthenticityError, ExitCode, Finding, IntegrityError, MachineError
from bundler.storage.direct import fits_in_memory
from bundler.storage.hashing import (
    HashOutcome,
    HashUnits,
    Unit,
    as_one_chunk,
    available_cores,
    damage_findings,
    hash_units,
    plan_units,
)
from bundler.storage.leases import Leases
from bundler.storage.no_follow import open_beneath, open_fault
from bundler.storage.tree import (
    Stamp,
    Tree,
    changed_findings,
    most_entries,
    read_small,
    tree_findings,
    walk_tree,
)
from bundler.trust.authentication import MAX_ATTESTATIONS, Authentication, VerifyKeyless, VerifySignature
from bundler.trust.policy import TrustPolicy, TrustResult, authenticate, evaluate
from bundler.verification.digest_plan import contradictions, not_localised, plan_digests, reconciled
from bundler.verification.steps import Checked

SMALL_FILES_LIMIT = 256 << 20
"""Bytes of all attestations together: bounds the memory a hostile bundle can ask for."""
PARSED_UNSIGNED = 16 << 20
"""Bytes of a manifest (80,000 files) that is parsed whoever made it: it may take 27 times the memory."""


class Journal(Protocol):
    """Remembers verified ranges between runs."""

    def trusts(self, unit: Unit) -> bool:
        """Whether an earlier run verified exactly this range of exactly this file."""

    def record(self, unit: Unit) -> None:
        """This range is verified now."""


@dataclass(frozen=True)
class _Expected:
    """The digests of every file but the chunk list, in manifest order, and what is wrong with that list.

    `list_sha256` is empty when there is no usable list.
    """

    parts: tuple[FileChunks, ...] = ()
    findings: tuple[Finding, ...] = ()
    list_sha256: str = ""
    list_bytes: int = 0


@dataclass
class Checks:
    """One bundle in front of one verifier. The members below the line are filled by the steps.

    `open_journal` takes the digests of the manifest and of the chunk list (empty without one) and gives back
    the journal that belongs to them, or None. `read_next` says that someone will read the same bytes right
    afterwards: they are read through the page cache if memory holds them. `hash_units` reads and hashes.
    `list_agrees` takes the digest of the manifest and says whether its chunk list is known to agree with its
    file digests; `list_agreed` says so after this verification.
    `leases` hold off writers from step 8 on; whoever made this value closes them.
    """

    root: int
    policy_bytes: bytes
    verify_signature: VerifySignature
    verify_keyless: VerifyKeyless | None = None
    open_journal: Callable[[str, str], Journal | None] = lambda manifest, chunks: None
    workers: int = field(default_factory=available_cores)
    progress: Progress = field(default_factory=SilentProgress)
    read_next: bool = False
    hash_units: HashUnits = hash_units
    list_agrees: Callable[[str], bool] = lambda manifest: False
    leases: Leases = field(default_factory=Leases)
    # ----
    policy: TrustPolicy | None = None
    manifest: Manifest | None = None
    manifest_sha256: str = ""
    manifest_size: int = 0
    attestations: Mapping[str, bytes] = field(default_factory=dict)
    trust: TrustResult | None = None
    tree: Tree | None = None
    bytes_read: int = 0
    bytes_trusted: int = 0
    hashing_seconds: float = 0.0
    list_agreed: bool = False
    _expected: _Expected = field(default_factory=_Expected)
    _stamps: dict[str, Stamp] = field(default_factory=dict)

    @property
    def policy_sha256(self) -> str:
        """The digest of the policy's bytes."""
        return hashlib.sha256(self.policy_bytes).hexdigest()

    def check_policy(self) -> Checked:
        """Step 1: the policy has its form. Whether it may replace an older one is the state's part."""
        self.policy = TrustPolicy.parse(self.policy_bytes)
        return Checked(detail=f"policy version {self.policy.version}, sha256:{self.policy_sha256}")

    def check_small_files(self) -> Checked:
        """Step 2: the manifest and every attestation are small enough to be read into memory."""
        findings = _size_findings(MANIFEST_NAME, _size(self.root, MANIFEST_NAME), MANIFEST_LIMIT)
        names, findings_of_names = _attestation_names(self.root)
        findings += _name_findings(names)
        sizes = {name: _size(self.root, f"{ATTESTATIONS}/{name}") for name in names}
        for name, size in sizes.items():
            findings += _size_findings(f"{ATTESTATIONS}/{name}", size, ATTESTATION_LIMIT)
        findings += _size_findings(ATTESTATIONS, sum(size or 0 for size in sizes.values()), SMALL_FILES_LIMIT)
        self.attestations = dict.fromkeys(names, b"")
        return Checked(findings=(*findings_of_names, *findings), detail=f"{len(names)} attestations")

    def check_manifest(self) -> Checked:
        """Step 3: the manifest's bytes, read once; what is verified from here on is what they say.

        A huge one is parsed only when someone the policy knows signed a statement about it.
        """
        data, self._stamps[MANIFEST_NAME] = read_small(self.root, MANIFEST_NAME, MANIFEST_LIMIT)
        self.manifest_sha256, self.manifest_size = hashlib.sha256(data).hexdigest(), len(data)
        if len(data) > PARSED_UNSIGNED:
            self._refuse_unsigned()
        self.manifest = Manifest.parse(data)
        return Checked(
            detail=f"{len(self.manifest.files)} files, {format_bytes(self.manifest.total_bytes)}, "
            f"channel {self.manifest.channel}, serial {self.manifest.serial}"
        )

    def _refuse_unsigned(self) -> None:
        """Raises AuthenticityError (`unsigned-manifest`) unless an authenticated statement names it, or
        MachineError (`not-checked`) when signatures are there that this program cannot check.

        What counts is decided in step 5; here a stranger only must not make the verifier parse a gigabyte.
        """
        assert self.policy is not None
        known = self._authentication()
        counting = [item for item in known.attestations if item.key not in self.policy.revoked.keys]
        if any(item.statement.names(self.manifest_sha256) for item in counting):
            return
        what = "a manifest of this size is not parsed before someone is known to have signed it"
        expected = f"a statement about sha256:{self.manifest_sha256} by a key or identity of the policy"
        found = f"{format_bytes(self.manifest_size)}, {len(self.attestations)} attestations"
        if known.unchecked:
            raise MachineError(
                "not-checked",
                what,
                where=MANIFEST_NAME,
                expected=expected,
                found=f"{found}, {len(known.unchecked)} of which this program cannot check",
                hint="`sealift verify` checks them; keyless ones with the trusted root: --trusted-root FILE",
            )
        raise AuthenticityError(
            "unsigned-manifest",
            what,
            where=MANIFEST_NAME,
            expected=expected,
            found=f"{found}, none about it",
            hint="ask for a signed bundle; `sealift trust show POLICY` lists who may sign",
        )

    def check_signatures(self) -> Checked:
        """Step 4: every file of attestations/ authenticates against a key or identity of the policy."""
        assert self.policy is not None
        assert self.manifest is not None
        self.trust = evaluate(self.policy, self.manifest, self._authentication())
        return Checked(
            findings=self.trust.authentication_findings,
            detail=f"{len(self.trust.attestations)} of {len(self.attestations)} attestations authenticated",
            not_checked=tuple(f"the signature of {ATTESTATIONS}/{name}" for name in self.trust.not_checked),
        )

    def _authentication(self) -> Authentication:
        """Who signed each attestation; their bytes are read once."""
        assert self.policy is not None
        self.attestations = {
            name: data or self._attestation(name) for name, data in self.attestations.items()
        }
        return authenticate(
            self.policy,
            self.attestations,
            verify_signature=self.verify_signature,
            verify_keyless=self.verify_keyless,
        )

    def _attestation(self, name: str) -> bytes:
        path = f"{ATTESTATIONS}/{name}"
        data, self._stamps[path] = read_small(self.root, path, ATTESTATION_LIMIT)
        return data

    def check_requirements(self) -> Checked:
        """Step 5: what the policy requires was said by whom it requires; nothing is revoked."""
        assert self.trust is not None
        met = sum(outcome.met for outcome in self.trust.requirements)
        findings = list(self.trust.decision_findings)
        if self.trust.not_checked and not findings:
            findings.append(_unchecked_finding(self.trust.not_checked))
        return Checked(
            findings=tuple(findings), detail=f"{met} of {len(self.trust.requirements)} requirements met"
        )

    def check_tree(self) -> Checked:
        """Step 6: exactly the listed files, manifest.json and attestations/*; nothing but plain files.

        When that is so, the chunk list is read as well: one that contradicts the manifest is refused here,
        before anything else is read.
        """
        assert self.manifest is not None
        self.tree = walk_tree(self.root, most_entries(self.manifest))
        findings = tree_findings(self.tree, self.manifest, self.manifest_size)
        findings += self._read_before(self.tree)
        if not findings:
            self._expected = self._expected_digests(self.tree)
            findings += contradictions(self._expected.parts)
        return Checked(findings=tuple(findings), detail=f"{len(self.tree.files)} files")

    def _read_before(self, tree: Tree) -> list[Finding]:
        """The manifest and attestations must still be the files that were read in steps 3 and 4."""
        there = {path: stamp for path, stamp in tree.files.items() if path in self._stamps or _attested(path)}
        before = Tree(files=self._stamps, directories=(), findings=())
        return changed_findings(before, Tree(files=there, directories=(), findings=()))

    def check_bytes(self) -> Checked:
        """Step 8: every byte of every listed file, by its own digest and by chunk (`digest_plan`)."""
        assert self.manifest is not None
        assert self.tree is not None
        expected = self._expected
        self.bytes_read += expected.list_bytes
        agreed = bool(expected.list_sha256) and self.list_agrees(self.manifest_sha256)
        plan = plan_digests(expected.parts, self.tree.files, agreed=agreed, workers=self.workers)
        journal = self.open_journal(self.manifest_sha256, expected.list_sha256)
        wanted = [unit for unit in plan.units if journal is None or not journal.trusts(unit)]
        self.bytes_trusted = _bytes_once(plan.units) - _bytes_once(wanted)
        # Before the first byte: what is written from here on is noticed, also through a mapping.
        findings = [*expected.findings, *self.leases.take(self.root, self.tree.files)]
        findings += self._compare(wanted, journal)
        findings += changed_findings(self.tree, walk_tree(self.root, most_entries(self.manifest)))
        findings += self.leases.findings(self.root)
        self.list_agreed = agreed or (plan.both and bool(expected.list_sha256) and not findings)
        return Checked(
            findings=tuple(dict.fromkeys(findings)),
            detail=self._hash_detail(),
            not_checked=self.leases.not_checked(),
        )

    def damage(self, paths: Collection[str]) -> list[Finding]:
        """Which of the listed files `paths` differ from the manifest; after step 6.

        For step 7: a header that makes no sense is a damaged file first of all, if its bytes are not the
        signed ones.
        """
        assert self.tree is not None
        if not paths:
            return []
        parts = [part for part in self._expected.parts if part.entry.path in paths]
        plan = plan_digests(parts, self.tree.files, agreed=False, workers=self.workers)
        return self._compare(plan.units, None)

    def _compare(self, units: Sequence[Unit], journal: Journal | None) -> list[Finding]:
        """What differs in these units. A file that differs as a whole is read again to find out where."""
        assert self.tree is not None
        outcome = self._hash(units, journal)
        self.bytes_read += outcome.bytes_read
        self.hashing_seconds = outcome.seconds
        unread, damage = list(outcome.unread), list(outcome.damage)
        suspects = not_localised(damage, units)
        parts = [part for part in self._expected.parts if part.entry.path in suspects and len(part) > 1]
        if parts:
            closer = self._hash(plan_units(parts, self.tree.files, again=True), None)
            unread += closer.unread
            damage += closer.damage
        kept, findings = reconciled(damage)
        return [*unread, *damage_findings(kept), *findings]

    def _hash(self, units: Sequence[Unit], journal: Journal | None) -> HashOutcome:
        size = sum(unit.size for unit in units)
        self.progress.start("verifying", size)
        try:
            return self.hash_units(
                self.root,
                units,
                workers=self.workers,
                progress=self.progress,
                keep_in_memory=self.read_next and fits_in_memory(_bytes_once(units)),
                verified=journal.record if journal is not None else lambda unit: None,
            )
        finally:
            self.progress.finish()

    def _hash_detail(self) -> str:
        rate = self.bytes_read / self.hashing_seconds if self.hashing_seconds else 0
        text = f"{format_bytes(self.bytes_read)} read now ({format_bytes(int(rate))}/s)"
        if self.bytes_trusted:
            text += f", {format_bytes(self.bytes_trusted)} trusted from an earlier, interrupted run"
        return text

    def _expected_digests(self, tree: Tree) -> _Expected:
        """The digests to compare with. Without a usable chunk list, each file has only its own."""
        assert self.manifest is not None
        files = self.manifest.files
        if self.manifest.chunks is None:
            return _Expected(parts=tuple(as_one_chunk(entry) for entry in files))
        entry = next(entry for entry in files if entry.path == self.manifest.chunks.path)
        rest = [item for item in files if item.path != entry.path]
        try:
            data = self._chunk_list(entry, tree)
            parts = {part.entry.path: part for part in split_chunk_list(self.manifest, data)}
        except IntegrityError as error:
            return _Expected(parts=tuple(map(as_one_chunk, rest)), findings=error.findings)
        return _Expected(
            parts=tuple(parts.get(item.path) or as_one_chunk(item) for item in rest),
            list_sha256=entry.sha256,
            list_bytes=len(data),
        )

    def _chunk_list(self, entry: FileEntry, tree: Tree) -> bytes:
        assert self.manifest is not None
        assert self.manifest.chunks is not None
        chunk_size = self.manifest.chunks.size
        most = 32 * sum(chunk_count(item.size, chunk_size) for item in self.manifest.files)
        if entry.size > most:
            raise IntegrityError(
                "chunk-list-length",
                "the chunk list does not fit the manifest's files",
                where=entry.path,
                expected=f"at most {most} bytes",
                found=f"{entry.size} bytes",
            )
        data, stamp = read_small(self.root, entry.path, entry.size)
        found = hashlib.sha256(data).hexdigest()
        if found != entry.sha256 or stamp != tree.files[entry.path]:
            raise IntegrityError(
                "digest-mismatch",
                "the chunk list differs from the signed manifest",
                where=entry.path,
                expected=f"sha256:{entry.sha256}",
                found=f"sha256:{found}",
                hint="fetch or receive this file again, then `sealift verify BUNDLE --resume`",
            )
        return data


def _bytes_once(units: Iterable[Unit]) -> int:
    """Bytes of the units, without those that are read again."""
    return sum(unit.size for unit in units if not unit.again)


def _attested(path: str) -> bool:
    return path.startswith(f"{ATTESTATIONS}/")


def _size(root: int, path: str) -> int | None:
    """Bytes of `path` without opening it; None when it is not there or no regular file (told later)."""
    folder, _, name = path.rpartition("/")
    try:
        parent = open_beneath(root, folder, directory=True) if folder else os.dup(root)
    except OSError:
        return None
    try:
        status = os.stat(name.encode(), dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(parent)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _size_findings(path: str, size: int | None, limit: int) -> list[Finding]:
    if size is None or size <= limit:
        return []
    return [
        Finding(
            "too-large",
            "a document is larger than its limit",
            where=path,
            expected=f"at most {limit} bytes",
            found=f"{size} bytes",
            exit_code=ExitCode.MALFORMED,
        )
    ]


def _attestation_names(root: int) -> tuple[list[str], list[Finding]]:
    """The names in attestations/ (none when there is no such folder), and what may not be there."""
    try:
        folder = open_beneath(root, ATTESTATIONS, directory=True)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        trouble = open_fault(ATTESTATIONS, error)
        if isinstance(trouble, IntegrityError):
            return [], [_not_an_attestation(ATTESTATIONS, error.strerror or "")]
        raise trouble from error
    try:
        with os.scandir(folder) as found:
            entries = {os.fsencode(entry.name): entry.stat(follow_symlinks=False).st_mode for entry in found}
    finally:
        os.close(folder)
    if len(entries) > MAX_ATTESTATIONS:
        return [], [_too_many(len(entries))]
    names: list[str] = []
    other: list[Finding] = []
    for raw, mode in sorted(entries.items()):
        fault = "" if stat.S_ISREG(mode) else "a link, folder or special file"
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            fault = fault or "a name that is not UTF-8"
        if fault:
            other.append(_not_an_attestation(f"{ATTESTATIONS}/{repr(raw)[2:-1]}", fault))
        else:
            names.append(name)
    return names, other


def _name_findings(names: Sequence[str]) -> list[Finding]:
    """The rules of section 1 for names that no manifest lists: hidden ones, hostile ones, twins."""
    faults = {name: _name_fault(name) for name in names}
    found = [
        Finding(
            "attestation-name",
            "a file is not named as an attestation",
            where=f"{ATTESTATIONS}/{name}",
            expected="a name as in format.md section 1, not hidden",
            found=fault,
            exit_code=ExitCode.MALFORMED,
        )
        for name, fault in faults.items()
        if fault
    ]
    return found + path_set_findings((name for name in names if not faults[name]), where=ATTESTATIONS)


def _name_fault(name: str) -> str:
    if name.startswith("."):
        return "it is hidden"
    # In a folder, where a colon is allowed.
    return path_fault(f"folder/{name}")


def _too_many(count: int) -> Finding:
    return Finding(
        "too-many",
        "there are more attestations than a verifier reads",
        where=ATTESTATIONS,
        expected=f"at most {MAX_ATTESTATIONS} files",
        found=f"{count} files",
        exit_code=ExitCode.MALFORMED,
    )


def _not_an_attestation(where: str, found: str) -> Finding:
    return Finding(
        "unexpected-attestation",
        "something in attestations/ is no plain file",
        where=where,
        expected="regular files only, each an attestation",
        found=found,
        exit_code=ExitCode.INTEGRITY,
    )


def _unchecked_finding(names: Sequence[str]) -> Finding:
    return Finding(
        "not-checked",
        "signatures are there that this program cannot check",
        where=", ".join(f"{ATTESTATIONS}/{name}" for name in names)[:400],
        expected="every attestation authenticated",
        found=f"{len(names)} not checked",
        hint="`sealift verify` checks them, with a current `cryptography`",
        exit_code=ExitCode.INCOMPLETE,
    )
