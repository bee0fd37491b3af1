"""The attack table: every attack we know of, and the tests that try it. A row without a test is a failure.

`vector:` and `rotation:` name rows of `tests/vectors/trust.py`, `damage:` rows of
`tests/verification/damages.py`, everything else a test by file and function. All assert the verdict, the
reference and that nothing changed on disk.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.vectors.trust import rotations, vectors
from tests.verification import damages

TESTS = Path(__file__).parents[1]
VECTORS = frozenset(vector.name for vector in vectors())
ROTATIONS = frozenset(rotation.name for rotation in rotations())
DAMAGES = frozenset(damage.sentence for damage in damages.ALL)


def _vectors(*names: str) -> tuple[str, ...]:
    return tuple(f"vector:{name}" for name in names)


def _rotations(*names: str) -> tuple[str, ...]:
    return tuple(f"rotation:{name}" for name in names)


def _damages(*sentences: str) -> tuple[str, ...]:
    return tuple(f"damage:{sentence}" for sentence in sentences)


SURROUNDINGS = "trust/test_hostile_surroundings.py"
ATTACKS: dict[str, tuple[str, ...]] = {
    # Envelopes and signatures
    "the payload type is changed after signing": _vectors("payloadtype-changed-after-signing"),
    "something signed for another purpose is passed off, or signed without its type": _vectors(
        "pae-confusion-signed-as-other-type", "raw-signature-without-pae", "payload-changed-after-signing"
    ),
    "no signature, two, or a good one beside junk": _vectors(
        "no-signature", "two-signatures-in-one-envelope"
    ),
    "a key id, hint or embedded key claims to be another": (
        *_vectors("keyid-claims-other-key", "hint-claims-release-but-a-stranger-signed"),
        *_vectors("embedded-public-key-in-the-bundle", "good-hint-claims-another-key-and-is-ignored"),
        "trust/test_policy.py::test_the_hint_never_decides_who_signed",
    ),
    "one key is listed twice, under two ids or in two encodings": _vectors(
        "policy-one-key-under-two-ids", "policy-one-key-in-two-encodings", "policy-role-lists-a-key-twice"
    ),
    "one person signs twice: with one key, with two keys, under two spellings, or for two roles": (
        *_vectors("security-same-key-twice", "security-same-person-two-keys"),
        *_vectors("separation-of-duty-release-signs-legal", "wrong-role-signs", "security-one-of-two"),
        "trust/test_policy.py::test_two_spellings_of_one_person_do_not_reach_a_threshold",
    ),
    "a threshold of zero, of true, or one that nobody can reach": _vectors(
        *("policy-threshold-zero", "policy-threshold-negative", "policy-threshold-bool"),
        *("policy-threshold-above-the-owners", "policy-revocation-makes-threshold-unreachable"),
        *("policy-separation-unreachable", "policy-require-empty"),
    ),
    "a key is used with another algorithm than its own": _vectors(
        *("policy-algorithm-confusion", "policy-unknown-algorithm"),
        "signature-of-another-algorithm-in-the-place",
    ),
    "the post-quantum signature is stripped": _vectors("missing-pq-signature-downgrade"),
    "junk or a second spelling in base64": (
        *_vectors("base64-with-junk-characters", "base64-with-line-break", "base64-without-padding"),
        *_vectors("base64-with-spare-bits", "base64-url-safe", "policy-key-with-junk-base64"),
        "trust/test_dsse.py::test_a_value_has_one_base64_text",
    ),
    "all attestations, or one that is required, are taken away": (
        *_vectors("no-attestations-at-all", "legal-verdict-missing"),
        *_damages("there is no attestation"),
    ),
    "garbage, or a stranger's signature, lies among the attestations": (
        *_vectors("garbage-file-in-attestations", "unknown-signer-extra-file"),
        *_damages("a stranger signed too", "there is a folder in attestations"),
    ),
    # Documents that two readers read differently, or that hurt
    "a JSON key is given twice": (
        *_vectors("duplicate-json-key-in-the-envelope", "duplicate-json-key-in-the-statement"),
        *_vectors("manifest-duplicate-key", "policy-duplicate-key"),
    ),
    "huge documents, deep nesting, very many files": (
        *_vectors("huge-json", "deep-nesting", "too-many-attestations"),
        *_damages("an attestation is too large to be read", "there are too many attestations"),
        "core/test_strict_json.py::test_a_hostile_document_costs_no_more_than_its_size",
        "fuzz/test_targets.py::test_no_variant_of_a_good_document_breaks_its_parser",
    ),
    "NaN, floats, huge integers, half characters, a byte order mark": (
        *_vectors("nan-in-a-third-partys-predicate", "float-in-a-statement-of-ours"),
        *_vectors("manifest-float-serial", "manifest-serial-beyond-2-53"),
        *_vectors("lone-surrogate-in-a-statement", "byte-order-mark", "manifest-bool-serial"),
        "core/test_strict_json.py::test_what_is_not_strict_is_refused",
    ),
    "a YAML alias bomb, or a name given twice, in the spec": (
        "core/specs/test_spec_text.py::test_an_alias_is_refused_and_nothing_is_expanded",
        "core/specs/test_spec_text.py::test_yaml_beyond_the_plain_subset_is_refused_with_its_line",
    ),
    # Statements
    "an old statement version or another predicate type": _vectors(
        "statement-v0.1", "wrong-predicate-type", "statement-is-not-an-object"
    ),
    "no subject, a short, upper-case or weak digest, another name for the digest": _vectors(
        *("empty-subject-list", "too-many-subjects", "same-subject-name-twice", "truncated-digest"),
        *("upper-case-digest", "md5-only-digest", "right-digest-under-another-name"),
    ),
    "an attestation of another manifest, serial or channel is replayed": (
        *_vectors("attestation-for-other-manifest-replayed", "release-statement-serial-differs"),
        *_vectors("release-statement-serial-is-a-float", "release-statement-channel-differs"),
        *_damages("the release statement is about another manifest", "the manifest was edited after signing"),
    ),
    "a rejecting opinion, or a value of another type, stands where approval is required": _vectors(
        *(
            "legal-verdict-rejected",
            "legal-verdict-rejected-beside-an-approval",
            "legal-verdict-rejected-by-another-owner",
            "where-type-confusion-false-for-zero",
            "where-type-confusion-one-for-true",
        ),
        *("where-type-confusion-float-for-integer", "where-type-confusion-list-for-text"),
    ),
    "a model signature that ignores files, lists none, swaps names, or allows links": _vectors(
        *("oms-ignores-everything", "oms-ignores-a-subtree", "oms-ignores-below-git", "oms-empty-resources"),
        *("oms-without-the-manifest", "oms-names-swapped", "oms-duplicate-resource", "oms-symlinks-allowed"),
        *("oms-shards", "oms-root-digest-differs", "oms-of-another-manifest", "oms-second-subject"),
        *("oms-resources-in-another-order",),
    ),
    # Paths and file systems
    "a listed path leaves the bundle, hides, or is two paths on some file system": (
        *_vectors("path-parent", "path-absolute", "path-backslash", "path-drive", "path-control", "path-git"),
        *_vectors("path-format-character", "path-not-nfc", "path-attestations", "path-windows-reserved"),
        *_vectors(
            "path-case-collision", "path-nfkc-collision", "path-file-is-directory", "path-listed-twice"
        ),
        *_damages("the manifest lists a path that leaves the bundle", "the manifest lists an absolute path"),
        "verification/test_verify.py::test_a_hostile_artifact_path_opens_nothing_outside",
    ),
    "a file, a folder or the bundle itself is a symbolic link": (
        *_damages("a file is a link to the same bytes", "a folder is a link to the same files"),
        "verification/test_verify.py::test_a_root_that_is_a_link_is_refused",
        "storage/test_tree.py::test_a_link_anywhere_in_a_path_is_refused_by_the_kernel",
    ),
    "a file has a second name outside (hard link)": _damages("a file has a second name outside"),
    "a pipe, a socket or a device": (
        *_damages("there is a FIFO", "there is a socket"),
        "storage/test_tree.py::test_a_device_is_told",
    ),
    "an extra file, a hidden one, an empty folder": _damages(
        *(
            "there is a file too many",
            "there is a hidden file too many",
            "there is a file too many under .git",
        ),
        "there is an empty folder",
    ),
    "a name that is not UTF-8, or in another Unicode form": _damages(
        "there is a name that is not UTF-8", "a name is in another Unicode form"
    ),
    "a file system that ignores case": (
        f"{SURROUNDINGS}::test_a_name_in_another_case_is_another_file",
        f"{SURROUNDINGS}::test_a_disk_that_ignores_case_neither_hides_a_renamed_file_nor_refuses_a_good_one",
    ),
    "another size, other bytes, exchanged files or chunks": _damages(
        *("a file is one byte shorter", "a file is one byte longer", "the first byte of a file is flipped"),
        *("two files are exchanged", "two chunks of a file are exchanged", "the chunk list is flipped"),
    ),
    "a file of the right size that was never written (sparse)": (
        f"{SURROUNDINGS}::test_a_file_that_was_never_written_is_refused",
        "content/test_safetensors.py::test_a_region_that_was_never_written_is_seen",
    ),
    "something is mounted inside the bundle": (
        "verification/test_verify.py::test_a_mount_inside_the_bundle_is_refused",
    ),
    # Time of check and time of use
    "a file changes while it is read": (
        "storage/test_hashing.py::test_a_file_that_is_written_while_it_is_read_never_passes",
        "storage/test_hashing.py::test_a_file_that_is_truncated_while_it_is_read_never_passes",
        "verification/test_verify.py::test_a_file_that_appears_while_others_are_read_is_refused",
    ),
    "the manifest is exchanged after it was read": (
        "verification/test_verify.py::test_only_the_bytes_read_first_count_as_the_manifest",
    ),
    "a file is exchanged after verification, before the server starts": (
        "launch/test_last_look.py::test_a_file_changed_after_verification_starts_nothing",
        "install/test_engine.py::test_a_wheel_changed_after_verification_is_refused_and_nothing_is_left",
        "install/test_images.py::test_a_layer_replaced_by_a_link_is_not_followed",
    ),
    "the bundle lies where it can be written": (
        "launch/test_last_look.py::test_a_bundle_that_can_be_written_is_told",
    ),
    "an interrupted verification is continued over changed bytes or an edited journal": (
        "verification/test_resume.py::test_a_file_changed_after_the_interruption_is_read_again",
        "verification/test_resume.py::test_an_edited_line_makes_nothing_pass_unread",
        "verification/test_resume.py::test_a_journal_that_others_may_write_is_refused",
    ),
    # Rollback, rotation, revocation
    "an older release, an older policy, or another one under the same number": _vectors(
        *("serial-below-the-policy-floor", "serial-older-than-state", "serial-older-than-the-last-release"),
        *("equivocation-same-serial-other-manifest", "policy-version-rollback"),
        "equivocation-same-version-other-policy",
    ),
    "the state is deleted, edited, or set back": (
        "verification/test_verify.py::test_a_missing_state_needs_the_policy_digest_typed",
        "trust/perimeter/test_state.py::test_a_lost_copy_is_noticed",
        "trust/perimeter/test_state.py::test_an_edited_copy_is_noticed",
        "trust/perimeter/test_state.py::test_a_main_file_set_back_to_yesterdays_does_not_set_the_state_back",
        "trust/perimeter/test_state.py::test_another_typed_digest_is_refused",
        *_vectors("state-is-not-json", "state-with-a-bool-serial", "state-with-a-short-digest"),
    ),
    "a policy takes back a revocation or lowers a floor": _rotations(
        "rotate-un-revocation", "rotate-revocations-dropped", "rotate-floor-lowered", "rotate-floor-dropped"
    ),
    "a policy follows without the old or the new root, skips one, or breaks the chain": _rotations(
        *("rotate-missing-old-threshold", "rotate-missing-new-threshold", "rotate-self-appointed-root"),
        *("rotate-same-key-twice", "rotate-by-release", "rotate-skipped-version", "rotate-same-version"),
        *("rotate-broken-chain", "rotate-chain-missing", "rotate-approval-of-another-file"),
        *("rotate-approval-of-another-version", "rotate-approval-of-another-type", "rotate-nobody-approves"),
    ),
    "a newer policy is withheld": (
        "trust/test_ceremonies.py::test_a_withheld_policy_is_noticed",
        "trust/test_ceremonies.py::test_an_answer_to_another_challenge_proves_nothing",
        "trust/test_ceremonies.py::test_only_the_root_answers",
    ),
    "a revoked key, manifest or file": _vectors(
        "revoked-key-is-the-only-release-signer", "revoked-manifest", "revoked-file"
    ),
    # Keyless
    "a keyless signature by another identity, issuer or Sigstore": (
        "trust/test_keyless.py::test_a_keyless_signature_by_somebody_else_is_an_unknown_signer",
        "trust/test_keyless.py::test_another_trusted_root_than_the_pinned_one_is_refused",
    ),
    "a log entry or certificate of another artifact": (
        "trust/test_keyless.py::test_a_changed_keyless_bundle_is_refused",
        *_vectors("log-entry-beside-a-key"),
    ),
    "an authority or certificate that had expired": (
        "trust/test_keyless_validity.py::test_an_authority_that_had_expired_vouches_for_nobody",
        "trust/test_keyless_validity.py::test_a_signature_logged_after_its_certificate_ended_does_not_count",
    ),
    "a publisher's attestation of another repository, file name or digest": (
        "trust/test_upstream.py::test_an_attestation_by_somebody_else_does_not_count",
        "trust/test_upstream.py::test_an_attestation_of_another_file_name_does_not_count",
        "trust/test_upstream.py::test_an_attestation_of_another_digest_does_not_count",
    ),
    "a known hole in the login of the Sigstore library": (
        "trust/test_attack_table.py::test_the_sigstore_library_is_one_without_the_known_hole_in_its_login",
    ),
    # Surroundings
    "a poisoned trust cache, a hostile home, working directory or environment": (
        f"{SURROUNDINGS}::test_a_hostile_home_and_working_directory_make_no_difference_to_a_good_bundle",
        f"{SURROUNDINGS}::test_a_hostile_home_and_working_directory_do_not_save_a_bad_bundle",
        f"{SURROUNDINGS}::test_a_poisoned_sigstore_cache_is_not_read",
        f"{SURROUNDINGS}::test_the_portable_verifier_takes_no_module_from_its_surroundings",
        "verification/test_pyz.py::test_a_hostile_openssl_configuration_changes_nothing",
        "launch/test_environment.py::test_whatever_the_caller_has_only_the_list_passes",
    ),
    "a clock far in the past or in the future": (
        f"{SURROUNDINGS}::test_a_wrong_clock_does_not_stop_a_good_bundle",
        f"{SURROUNDINGS}::test_a_wrong_clock_never_makes_an_expired_policy_valid",
        "trust/test_keyless.py::test_a_clock_far_in_the_past_is_named_and_refused",
    ),
    "hostile names reach the operator's terminal": (
        "verification/test_pyz.py::test_people_read_a_verdict_and_hostile_names_do_not_reach_the_terminal",
    ),
    "a PIN, passphrase or token is shown or taken from the command line": (
        "signing/test_pkcs11.py::test_a_pin_on_the_command_line_is_refused_with_the_reason_and_not_repeated",
        "trust/test_command_line.py::test_there_is_no_option_that_takes_a_passphrase",
    ),
}


@cache
def _functions(file: str) -> frozenset[str]:
    path = TESTS / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _exists(test: str) -> bool:
    kind, _, name = test.partition(":")
    known = {"vector": VECTORS, "rotation": ROTATIONS, "damage": DAMAGES}
    if kind in known:
        return name in known[kind]
    file, _, function = test.partition("::")
    return function.startswith("test_") and function in _functions(file)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_has_tests_that_exist(attack: str) -> None:
    assert ATTACKS[attack], "nothing tries this attack"
    assert [test for test in ATTACKS[attack] if not _exists(test)] == []


def test_every_hostile_vector_belongs_to_an_attack_or_to_the_rules_of_policies() -> None:
    named = {test.partition(":")[2] for tests in ATTACKS.values() for test in tests if ":" in test}
    hostile = {vector.name for vector in vectors() if vector.reference}
    rest = {name for name in hostile - named if not name.startswith(("policy-", "path-", "oms-"))}
    assert rest == {
        *("unknown-member-in-the-bundle", "wrong-media-type", "manifest-unknown-critical-member"),
        *("manifest-changed-after-signing",),
    }


def test_the_sigstore_library_is_one_without_the_known_hole_in_its_login() -> None:
    from importlib.metadata import version

    # GHSA-hm8f-75xx-w2vr: before 4.2 a stranger's login could be slipped in.
    assert tuple(map(int, version("sigstore").split(".")[:2])) >= (4, 5)
    assert '"sigstore>=4.5' in (TESTS.parent / "pyproject.toml").read_text()
