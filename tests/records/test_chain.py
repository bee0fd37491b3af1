"""The chain of one file from upstream to signature."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.core.chunks import FileChunks
from bundler.core.manifest import FileEntry, Manifest, compose
from bundler.core.paths import BundlePath
from bundler.errors import UsageError
from bundler.records.chain import Link, chain, find_entry

COMMIT = "c" * 40
SNAPSHOT = f"payload/models/models--org--tiny/snapshots/{COMMIT}"
SHARD = f"{SNAPSHOT}/model.safetensors"
LOCK: dict[str, Any] = {
    "models": [
        {
            "repo": "org/tiny",
            "revision": "main",
            "commit": COMMIT,
            "files": [
                {"path": "model.safetensors", "lfsSha256": "a" * 64, "gitBlobSha1": "1" * 40},
                {"path": "config.json", "gitBlobSha1": "2" * 40},
            ],
        }
    ],
    "engines": [
        {"wheels": [{"name": "x", "version": "1", "filename": "x-1-py3-none-any.whl", "sha256": "b" * 64}]}
    ],
}


def manifest(sha256: str = "a" * 64) -> Manifest:
    paths = {
        SHARD: sha256,
        f"{SNAPSHOT}/config.json": "d" * 64,
        "payload/wheels/x-1-py3-none-any.whl": "b" * 64,
    }
    files = [
        FileEntry(BundlePath(path), 10, digest) for path, digest in {**paths, "README.md": "e" * 64}.items()
    ]
    return Manifest.parse(compose(channel="c", serial=1, files=files, chunks=None, lock="f" * 64))


def links_of(name: str, listed: Manifest, *, lock_sha256: str = "f" * 64) -> dict[str, Link]:
    entry = find_entry(listed, name)
    chunks = FileChunks(entry=entry, chunk_size=4, digests=bytes(96))
    subjects = {"release.sigstore.json": [listed.sha256]}
    found = chain(listed, entry, lock=LOCK, lock_sha256=lock_sha256, chunks=chunks, subjects=subjects)
    return {link.step: link for link in found}


def test_a_shard_leads_from_its_commit_to_its_signature() -> None:
    links = links_of("model.safetensors", manifest())
    assert links["upstream"].says == f"org/tiny at main, commit {COMMIT}"
    assert links["upstream LFS sha256"].agrees is True
    assert links["lock"].agrees is True
    assert links["chunk digests"].says == "3 of 4 bytes each"
    assert links["attestation"].agrees is True


def test_a_broken_link_says_so() -> None:
    links = links_of("model.safetensors", manifest("0" * 64), lock_sha256="0" * 64)
    assert links["upstream LFS sha256"].agrees is False
    assert links["lock"].agrees is False


def test_a_small_file_names_its_git_blob_and_a_wheel_its_index() -> None:
    assert links_of("config.json", manifest())["upstream git blob"].says.startswith("sha1:2222")
    assert links_of("x-1-py3-none-any.whl", manifest())["upstream"].says == "x 1 from index default"
    assert links_of("README.md", manifest())["upstream"].says == "none: made by the builder"


def test_a_name_that_fits_none_or_several_is_refused() -> None:
    with pytest.raises(UsageError, match="no-such-file"):
        find_entry(manifest(), "nothing.txt")
    files = [
        FileEntry(BundlePath(path), 1, "a" * 64)
        for path in ("payload/a/config.json", "payload/b/config.json")
    ]
    two = Manifest.parse(compose(channel="c", serial=1, files=files, chunks=None))
    with pytest.raises(UsageError, match="ambiguous-file"):
        find_entry(two, "config.json")


IMAGE_DIGEST, LAYER, PINNED = "1" * 64, "2" * 64, "3" * 64
SIGNED_LOCK: dict[str, Any] = {
    "engines": [
        {
            "wheels": [
                {
                    **LOCK["engines"][0]["wheels"][0],
                    "provenance": {"size": 10, "sha256": PINNED},
                }
            ]
        }
    ],
    "images": [
        {
            "reference": "reg/app:1@sha256:" + IMAGE_DIGEST,
            "digest": "sha256:" + IMAGE_DIGEST,
            "platforms": [{"digest": "sha256:" + IMAGE_DIGEST, "blobs": [["sha256:" + LAYER, 10]]}],
        }
    ],
}
PROVENANCE = "payload/evidence/wheels/x-1-py3-none-any.whl.provenance.json"


def signature_link(path: str, sha256: str, standing: object, artifact: str = "") -> list[Link]:
    """The chain of one file whose artifact (`image:reg/app:1` for blobs) has this standing."""
    files = [FileEntry(BundlePath(path), 10, sha256, artifact)]
    described = [{"id": artifact or "image:reg/app:1", "source": {"upstreamSignature": standing}}]
    listed = Manifest.parse(
        compose(channel="c", serial=1, files=files, chunks=None, artifacts=[3, {}, *described])
    )
    return chain(listed, listed.files[0], lock=SIGNED_LOCK, lock_sha256="0" * 64, chunks=None, subjects={})


def test_the_layer_of_an_image_says_who_signed_the_image() -> None:
    standing = {"state": "verified", "checked": "all of it", "signer": {"key": "sha256:ab"}}
    links = {
        link.step: link for link in signature_link(f"payload/images/blobs/sha256/{LAYER}", LAYER, standing)
    }
    assert links["upstream signature"].says == "verified when it was built, by key sha256:ab: all of it"
    assert links["OCI digest"].agrees is True


def test_evidence_says_what_it_is_about_and_agrees_with_its_pin() -> None:
    standing = {"state": "unverified-present", "checked": "nothing", "untrustedClaim": "GitHub org/x"}
    links = {link.step: link for link in signature_link(PROVENANCE, PINNED, standing, "wheels:x@1")}
    assert links["upstream"].says == "evidence about wheels:x@1"
    assert links["pinned sha256"].agrees is True
    assert links["upstream signature"].says.endswith("nothing; it claims to be by GitHub org/x")
    key = {link.step: link for link in signature_link(f"payload/evidence/keys/{PINNED}.pub", "4" * 64, {})}
    assert key["upstream"].says == "what signatures are checked with"
    assert key["pinned sha256"].agrees is False


@pytest.mark.parametrize("standing", [None, "verified", ["verified"], {"signer": "me"}, {"signer": 3}])
def test_a_standing_of_another_form_breaks_nothing(standing: object) -> None:
    says = [link.says for link in signature_link(PROVENANCE, PINNED, standing, "wheels:x@1")]
    assert not [text for text in says if text.startswith("verified")]
