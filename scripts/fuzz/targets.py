"""One small target for every parser that reads what somebody else wrote.

A target takes any bytes. Its parser must give back a value or one of our own errors, in bounded time and
memory; where the value has a text form, that form must be read back as the same value. Everything else is
a fault of ours and ends the run.
"""

from __future__ import annotations

import io
import os
import re
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bundler.content import gguf, oci, safetensors, zip_archive
from bundler.content.wheels import lock_file as wheel_lock
from bundler.content.wheels.archive import name_findings
from bundler.content.wheels.record import parse_record, record_findings
from bundler.core import strict_json
from bundler.core.chunks import split_chunk_list
from bundler.core.manifest import Manifest, compose
from bundler.core.paths import parse_bundle_path, path_set_findings
from bundler.core.specs.lock import Lock
from bundler.core.specs.spec_text import parse_spec
from bundler.errors import ExitCode, Finding, SealiftError
from bundler.sources.hub.files import listed_files, pin_findings
from bundler.sources.wheels.package_index import parse_page
from bundler.storage.journal import decode_lines, encode_line
from bundler.trust.dsse import encode_bundle, parse_bundle, parse_statement
from bundler.trust.keys import parse_public_key, public_from_spki
from bundler.trust.perimeter.first_policy import sentences
from bundler.trust.perimeter.freshness import Challenge
from bundler.trust.perimeter.rotation import chain_findings
from bundler.trust.perimeter.state import State, merged
from bundler.trust.policy_document import TrustPolicy
from bundler.trust.upstream.envelope import read_envelope
from bundler.trust.upstream.image_signatures import (
    SIGNATURE_ANNOTATION,
    check_image_bundle,
    check_simple_signing,
)
from bundler.trust.upstream.model_signatures import check_model_signature
from bundler.trust.upstream.provenance import check_provenance, claimed_publishers
from scripts.fuzz import seeds
from tests.wheel_files import packed, wheel_members

SECONDS, SECONDS_PER_MEGABYTE = 2.0, 20.0
"""Processor time a parser may take. The slowest (pydantic's lock) takes 0.2 s for a megabyte here."""
MEMORY, MEMORY_PER_BYTE = 48 << 20, 200
"""Python memory at its peak. JSON of empty lists takes 64 bytes for each of its own; errors a little more."""
TEXT = 4096
"""Letters in one part of a finding: what a person can still read."""
SEPARATOR = b"\n\n"
"""Between the two documents of a target that takes two."""
_REFERENCE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Broken(AssertionError):
    """A parser did what it must not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`check` feeds any bytes to a parser; `seeds` makes good documents to start from."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


TARGETS: dict[str, Target] = {}


def _target(name: str, seeds: Callable[[], Sequence[bytes]]) -> Callable[..., Callable[[bytes], None]]:
    def register(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[name] = Target(name=name, check=check, seeds=seeds)
        return check

    return register


def examine(target: Target, data: bytes, *, measured: bool = True) -> bool:
    """Whether the parser accepted `data`. Raises Broken, or whatever the parser should not have raised.

    With `measured`, memory is watched too, which makes parsing some three times slower.
    """
    started = time.process_time()
    if measured:
        tracemalloc.start()
    try:
        target.check(data)
        accepted = True
    except SealiftError as error:
        _check_findings(error.findings)
        accepted = False
    finally:
        peak = tracemalloc.get_traced_memory()[1] if measured else 0
        if measured:
            tracemalloc.stop()
    taken, size = time.process_time() - started, len(data)
    if taken > SECONDS + SECONDS_PER_MEGABYTE * size / (1 << 20):
        raise Broken(f"{taken:.1f} s of processor time for {size} bytes")
    if peak > MEMORY + MEMORY_PER_BYTE * size:
        raise Broken(f"{peak} bytes of memory for {size} bytes")
    return accepted


def _check_findings(findings: Sequence[Finding]) -> None:
    """Findings must have their form and stay readable, whatever the input was."""
    _must(bool(findings), "an error without findings")
    for finding in findings:
        _must(_REFERENCE.fullmatch(finding.reference) is not None, f"the reference {finding.reference!r}")
        _must(finding.exit_code != ExitCode.UNEXPECTED, f"{finding.reference} has no exit code of its own")
        _must(bool(finding.what), f"{finding.reference} says nothing")
        longest = max(finding.to_json().values(), key=len)
        _must(len(longest) <= TEXT, f"{finding.reference} has {len(longest)} letters: {longest[:80]!r}")


def _must(condition: bool, found: str) -> None:
    if not condition:
        raise Broken(found)


@contextmanager
def _file(data: bytes) -> Iterator[int]:
    """A descriptor of a file in memory with these bytes."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


@_target("strict-json", seeds.json_documents)
def _strict_json(data: bytes) -> None:
    value = strict_json.loads(data, limit=1 << 20, where="x")
    _must(strict_json.loads(strict_json.dumps(value), limit=1 << 24, where="x") == value, "no round trip")


@_target("bundle-path", seeds.bundle_paths)
def _bundle_path(data: bytes) -> None:
    paths = [
        parse_bundle_path(line, where="x") for line in data.decode("utf-8", "surrogateescape").split("\n")
    ]
    for path in paths:
        _must(os.path.normpath(f"/root/{path}") == f"/root/{path}", f"{path!r} leads elsewhere")
    _check_findings([*path_set_findings(paths, where="x"), *_SOME_FINDING])


@_target("manifest", seeds.manifests)
def _manifest(data: bytes) -> None:
    manifest = Manifest.parse(data)
    own = ("type", "channel", "serial", "files", "chunks")
    others = {name: member for name, member in manifest.members.items() if name not in own}
    data = compose(
        channel=manifest.channel,
        serial=manifest.serial,
        files=manifest.files,
        chunks=manifest.chunks,
        **others,
    )
    again = Manifest.parse(data)
    _must((again.files, again.chunks) == (manifest.files, manifest.chunks), "no round trip")
    _must(set(manifest.unknown_members) <= set(others), "a known member is called unknown")


@_target("chunk-list", seeds.chunk_lists)
def _chunk_list(data: bytes) -> None:
    head, _, digests = data.partition(SEPARATOR)
    manifest = Manifest.parse(head)
    if manifest.chunks is None:
        return
    parts = split_chunk_list(manifest, digests)
    _must(b"".join(part.digests for part in parts) == digests, "digests are lost")
    for part in parts:
        spans = [part.span(number) for number in range(min(len(part), 1000))]
        _must(all(start < end <= part.entry.size for start, end in spans), "a chunk beyond its file")


@_target("attestation", seeds.attestations)
def _attestation(data: bytes) -> None:
    envelope = parse_bundle(data, where="x")
    if not envelope.keyless:
        written = encode_bundle(envelope.payload, envelope.signature, hint=envelope.untrusted_hint)
        again = parse_bundle(written, where="x")
        _must((again.payload, again.signature) == (envelope.payload, envelope.signature), "no round trip")
    parse_statement(envelope.payload, where="x")


@_target("statement", seeds.statements)
def _statement(data: bytes) -> None:
    statement = parse_statement(data, where="x")
    _must(1 <= len(statement.subjects) <= 64, "too few or too many subjects")


@_target("policy", seeds.policies)
def _policy(data: bytes) -> None:
    policy = TrustPolicy.parse(data)
    _must(bool(policy.require) and "root" in policy.roles, "it would accept everything")
    for role in policy.roles.values():
        _must(1 <= role.threshold <= len(policy.owners(role)), f"{role.name}: nobody can reach the threshold")
    _must(all(sentences(policy)), "an empty sentence")
    _check_findings([*chain_findings(policy, policy), *_SOME_FINDING])


@_target("state", seeds.states)
def _state(data: bytes) -> None:
    state = State.parse(data)
    _must(State.parse(state.to_bytes()) == state, "no round trip")
    _must(all(merged([state]).floor(name) == state.floor(name) for name in state.serials), "merging forgets")


@_target("challenge", seeds.challenges)
def _challenge(data: bytes) -> None:
    challenge = Challenge.parse(data, where="x")
    _must(Challenge.parse(challenge.to_bytes(), where="x") == challenge, "no round trip")


class _Anyone:
    """A signer who signed everything: so that parsers behind a signature see any bytes too."""

    description: Mapping[str, str] = {"key": "any"}

    def payload(self, bundle: bytes, *, where: str) -> bytes:
        return read_envelope(bundle, where=where).payload

    def check_message(
        self, message: bytes, signature: bytes, annotations: Mapping[str, str], *, where: str
    ) -> None:
        """Good."""


@_target("provenance", seeds.provenances)
def _provenance(data: bytes) -> None:
    claim = claimed_publishers(data, where="x")
    _must(claim.isprintable() and len(claim) <= 300, "a claim that no terminal can show")
    check_provenance(data, filename=seeds.WHEEL, sha256=seeds.SHA, signer=_Anyone(), where="x")


@_target("image-signature", seeds.image_signatures)
def _image_signature(data: bytes) -> None:
    digest = f"sha256:{seeds.SHA}"
    if data.startswith(b'{"critical"'):
        annotations = {SIGNATURE_ANNOTATION: "AAAA"}
        check_simple_signing(data, annotations, digest=digest, signer=_Anyone(), where="x")
    else:
        check_image_bundle(data, digest=digest, signer=_Anyone(), where="x")
    _must(seeds.SHA.encode() in data or b"payload" in data, "an image that nobody named")


@_target("model-signature", seeds.model_signatures)
def _model_signature(data: bytes) -> None:
    signed = check_model_signature(data, signer=_Anyone(), where="x")
    _must(not signed.faults(dict(signed.digests), signatures=frozenset()), "it is not about what it lists")


@_target("public-key", seeds.public_keys)
def _public_key(data: bytes) -> None:
    key = parse_public_key(data, where="x")
    _must(public_from_spki(key.spki, where="x") == key, "no round trip")


@_target("spec", seeds.specs)
def _spec(data: bytes) -> None:
    spec = parse_spec(data, "x")
    # JSON is YAML, so the spec as JSON is another way to write the same spec.
    again = parse_spec(spec.model_dump_json(by_alias=True, exclude_unset=True).encode(), "x")
    _must(again == spec, "no round trip")


@_target("lock", seeds.locks)
def _lock(data: bytes) -> None:
    lock = Lock.parse(data, where="x")
    _must(Lock.parse(lock.to_bytes(), where="x") == lock, "no round trip")


@_target("safetensors", seeds.safetensors_files)
def _safetensors(data: bytes) -> None:
    with _file(data) as descriptor:
        header = safetensors.read_header(descriptor, where="x")
    _must(8 + header.header_bytes + header.data_bytes == len(data), "bytes that belong to nobody")
    _must(sum(tensor.size for tensor in header.tensors.values()) == header.data_bytes, "gaps or overlaps")


@_target("gguf", seeds.gguf_files)
def _gguf(data: bytes) -> None:
    with _file(data) as descriptor:
        header = gguf.read_header(descriptor, where="x")
    _must(sum(tensor.size for tensor in header.tensors.values()) <= len(data), "more weights than bytes")
    _check_findings([*gguf.split_findings({"x-00001-of-00002.gguf": header}), *_SOME_FINDING])


@_target("wheel", seeds.wheels)
def _wheel(data: bytes) -> None:
    with _file(data) as descriptor:
        members = zip_archive.read_members(descriptor, "x")
        read = {
            member.raw_name: b"".join(zip_archive.contents(descriptor, member, "x")) for member in members
        }
    _check_findings([*name_findings(members, "x"), *_SOME_FINDING])
    # What an installer unpacks is what was checked: Python's own reader must see the same.
    archive = zipfile.ZipFile(io.BytesIO(data))
    _must(
        archive.namelist() and len(archive.namelist()) == len(members) if members else True, "other members"
    )
    for info in archive.infolist():
        raw = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
        _must(archive.read(info) == read[raw], f"{info.filename!r} has other contents for Python")


@_target("record", seeds.records)
def _record(data: bytes) -> None:
    parse_record(data, "x")
    with _file(packed({**_MEMBERS, _RECORD: data})) as descriptor:
        members = zip_archive.read_members(descriptor, "x")
        found = record_findings(descriptor, members, _RECORD.partition("/")[0], "x", deep=True)
    _check_findings([*found, *_SOME_FINDING])


@_target("oci-manifest", seeds.oci_documents)
def _oci_manifest(data: bytes) -> None:
    errors = []
    parsers: Sequence[Callable[[], object]] = (
        lambda: oci.parse_manifest(data, oci.OCI_INDEX, where="x"),
        lambda: oci.parse_manifest(data, oci.OCI_MANIFEST, where="x"),
        lambda: oci.parse_manifest(data, oci.DOCKER_MANIFEST, where="x"),
        lambda: oci.parse_config(data, where="x"),
    )
    for parse in parsers:
        try:
            parse()
        except SealiftError as error:
            errors.append(error)
    accepted = len(parsers) - len(errors)
    for error in errors:
        _check_findings(error.findings)
    _must(accepted <= 2, "one document is read in several ways")
    if errors and not accepted:
        raise errors[0]


@_target("pylock", seeds.pylocks)
def _pylock(data: bytes) -> None:
    lock = wheel_lock.parse_wheel_lock(data, where="x")
    _must(len(lock.pins) == len(lock.files), "a project twice")


@_target("requirements", seeds.requirements)
def _requirements(data: bytes) -> None:
    pins = wheel_lock.parse_requirements(data, where="x")
    text = "".join(f"{name}=={pin[0]} --hash=sha256:{pin[1]}\n" for name, pin in pins.items())
    _must(wheel_lock.parse_requirements(text.encode(), where="x") == pins, "no round trip")


@_target("hub-listing", seeds.hub_listings)
def _hub_listing(data: bytes) -> None:
    value = strict_json.loads(data, limit=1 << 20, where="x", allow_floats=True)
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        return
    files = listed_files(value, where="x")
    _must([file.path for file in files] == sorted(file.path for file in files), "no order")
    _check_findings([*pin_findings(files, where="x"), *_SOME_FINDING])


@_target("index-page", seeds.index_pages)
def _index_page(data: bytes) -> None:
    for file in parse_page(data, "https://index.example/simple/pkg/", where="x"):
        _must(file.url.startswith(("https://", "http://")), f"{file.url!r} is fetched in another way")


@_target("journal", seeds.journals)
def _journal(data: bytes) -> None:
    entries, length = decode_lines(data, where="x")
    _must(data[:length].count(b"\n") == len(entries), "lines and entries differ")
    written = b"".join(map(encode_line, entries))
    _must(decode_lines(written, where="x") == (entries, len(written)), "no round trip")


_MEMBERS = wheel_members("pkg", "1.0")
_RECORD = "pkg-1.0.dist-info/RECORD"
_SOME_FINDING = (Finding("some", "for a list that may be empty", exit_code=ExitCode.MALFORMED),)
