"""What a spec may say about who must have signed upstream, and what is refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bundler.core.evidence import evidence_files, rules_of, trust_path
from bundler.core.specs.lock import Lock, LockedSignatureRule, LockedTrustFile
from bundler.core.specs.spec import Spec
from bundler.core.specs.spec_text import json_schema, parse_spec
from bundler.errors import Finding, MalformedError

IDENTITY = {"issuer": "https://idp.example", "san": "release@vendor.example"}
KEYLESS = {"identity": IDENTITY, "trustedRoot": "root.json"}
GITHUB = {"project": "vllm", "github": "vllm-project/vllm", "workflow": "release.yml"}


def spec(place: str, rule: dict[str, Any]) -> bytes:
    """A spec with one artifact and this rule about it."""
    items: dict[str, dict[str, Any]] = {
        "models": {"repo": "org/model", "signature": rule},
        "images": {"reference": "reg.example/app:1", "signature": rule},
        "engines": {"name": "vllm", "requirement": "vllm==1", "attestations": rule},
    }
    head = {"apiVersion": "sealift/v1", "name": "n", "channel": "c", "serial": 1}
    return json.dumps({**head, place: [items[place]]}, indent=1).encode()


def parsed(place: str, rule: dict[str, Any]) -> Spec:
    return parse_spec(spec(place, rule), "spec.yaml")


def refusal(place: str, rule: dict[str, Any]) -> Finding:
    with pytest.raises(MalformedError) as caught:
        parsed(place, rule)
    (finding,) = caught.value.findings
    return finding


def attestations(**changes: Any) -> dict[str, Any]:
    return {"publishers": [GITHUB], "trustedRoot": "root.json", **changes}


@pytest.mark.parametrize("place", ["models", "images"])
@pytest.mark.parametrize("signer", [{"key": "upstream.pub"}, KEYLESS], ids=["key", "identity"])
def test_a_key_or_an_identity_can_be_pinned_and_required(place: str, signer: dict[str, Any]) -> None:
    for rule in (signer, {**signer, "require": True}):
        found = json.loads(parsed(place, rule).model_dump_json(by_alias=True, exclude_unset=True))
        assert found[place][0]["signature"] == rule


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({}, "name one signer: either key or identity"),
        ({"require": True}, "name one signer: either key or identity"),
        ({"key": "k.pub", **KEYLESS}, "name one signer: either key or identity"),
        ({"identity": IDENTITY}, "identity and trustedRoot belong together"),
        ({"key": "k.pub", "trustedRoot": "root.json"}, "identity and trustedRoot belong together"),
    ],
    ids=["nobody", "required of nobody", "two signers", "no root", "a root for a key"],
)
@pytest.mark.parametrize("place", ["models", "images"])
def test_a_rule_names_exactly_one_signer(place: str, rule: dict[str, Any], says: str) -> None:
    finding = refusal(place, rule)
    assert (finding.reference, finding.what) == ("bad-value", says)
    assert finding.where.endswith(f"{place}[0].signature")


def test_only_a_model_names_the_file_of_its_signature() -> None:
    assert parsed("models", {"key": "k.pub", "file": "sig/model.sig"})
    finding = refusal("images", {"key": "k.pub", "file": "model.sig"})
    assert (finding.reference, finding.found) == ("unknown-name", "file")
    assert refusal("models", {"key": "k.pub", "file": "../model.sig"}).reference == "bad-value"


def test_a_slip_of_the_pen_is_told_with_the_right_name() -> None:
    finding = refusal("models", {"key": "k.pub", "required": True})
    assert finding.hint == "did you mean `require`?"
    finding = refusal("engines", attestations(publishers=[{**GITHUB, "workflows": "x"}]))
    assert finding.hint == "did you mean `workflow`?"
    finding = refusal("images", {"identity": {**IDENTITY, "sans": "x"}, "trustedRoot": "r"})
    assert finding.hint == "did you mean `san`?"


@pytest.mark.parametrize(
    "publisher",
    [
        GITHUB,
        {"project": "*", "gitlab": "group/sub/project", "workflow": ".gitlab-ci.yml"},
        {"project": "vllm", "identity": IDENTITY},
    ],
    ids=["github", "gitlab", "identity"],
)
def test_publishers_are_workflows_or_identities(publisher: dict[str, str]) -> None:
    assert parsed("engines", attestations(publishers=[publisher], require=["vllm"]))


@pytest.mark.parametrize(
    ("publisher", "says"),
    [
        ({"project": "x"}, "name one publisher: github, gitlab or identity"),
        ({**GITHUB, "gitlab": "a/b"}, "name one publisher: github, gitlab or identity"),
        ({"project": "x", "github": "a/b"}, "github and gitlab need workflow, and identity has none"),
        (
            {"project": "x", "identity": IDENTITY, "workflow": "x.yml"},
            "github and gitlab need workflow, and identity has none",
        ),
    ],
    ids=["nobody", "two", "no workflow", "an identity with a workflow"],
)
def test_a_publisher_is_exactly_one(publisher: dict[str, Any], says: str) -> None:
    assert refusal("engines", attestations(publishers=[publisher])).what == says


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"require": ["torch"]}, "require names torch without a publisher"),
        ({"publishers": [GITHUB, {**GITHUB, "project": "VLLM"}]}, "publishers name vllm twice"),
    ],
    ids=["a project without a publisher", "one project under two spellings"],
)
def test_names_of_projects_agree(changes: dict[str, Any], says: str) -> None:
    assert refusal("engines", attestations(**changes)).what == says


def test_all_wheels_may_be_required_of_publishers_still_to_be_compared() -> None:
    assert parsed("engines", attestations(require=["*"]))


@pytest.mark.parametrize("repository", ["vllm", "https://github.com/a/b", "a/b/../c d", "a/b\n", ""])
def test_a_repository_is_a_plain_name(repository: str) -> None:
    finding = refusal("engines", attestations(publishers=[{**GITHUB, "github": repository}]))
    assert finding.reference == "bad-value"


@pytest.mark.parametrize("name", ["publishers", "trustedRoot"])
def test_what_attestations_need_is_told(name: str) -> None:
    rule = attestations()
    del rule[name]
    finding = refusal("engines", rule)
    assert finding.reference == "missing-name"
    assert finding.expected.startswith(f"{name}: ")


def test_the_schema_refuses_unknown_members_of_rules_too() -> None:
    definitions = json_schema()["$defs"]
    for name in ("SignatureSpec", "ModelSignatureSpec", "AttestationsSpec", "PublisherSpec", "IdentitySpec"):
        assert definitions[name]["additionalProperties"] is False
        assert all(
            "description" in item or "$ref" in item for item in definitions[name]["properties"].values()
        )


def test_a_lock_without_rules_has_no_evidence_of_its_own() -> None:
    lock = Lock(spec_sha256="0" * 64, name="n", channel="c", serial=1)
    assert (rules_of(lock), evidence_files(lock)) == ((), ())


def test_a_key_and_a_root_lie_where_their_digests_say() -> None:
    file = LockedTrustFile(source="x", size=1, sha256="a" * 64)
    assert trust_path(LockedSignatureRule(key=file)) == f"payload/evidence/keys/{'a' * 64}.pub"
    root = LockedSignatureRule(trusted_root=file)
    assert trust_path(root) == f"payload/evidence/sigstore/{'a' * 64}.trusted_root.json"
