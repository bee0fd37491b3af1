"""The policy's rules over what a manifest states."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bundler.core import strict_json
from bundler.demo.tiny_kimi import model_files
from bundler.records.license_expression import license_fault
from bundler.trust.authentication import Attestation, Authentication
from bundler.trust.dsse import parse_statement
from bundler.trust.policy import TrustResult
from bundler.trust.policy_document import Rules
from bundler.verification.engine_floors import version_fault
from bundler.verification.rules import expiry_findings
from tests.verification.bundles import make_bundle, references
from tests.wheel_files import packed, wheel_members


def model(**members: Any) -> dict[str, Any]:
    good = {"id": "model:m", "kind": "model", "path": "payload/models/m", "format": "any"}
    return {**good, "license": {"declared": "Apache-2.0", "concluded": None}, **members}


def wheel(name: str = "vllm", version: str = "0.19.1", **members: Any) -> dict[str, Any]:
    good = {"id": f"wheels:{name}@{version}", "kind": "wheels", "purl": f"pkg:pypi/{name}@{version}"}
    return {**good, "license": {"declared": "Apache-2.0"}, **members}


def other_kind(path: str, kind: str = "file") -> dict[str, Any]:
    return {"id": f"{kind}:x", "kind": kind, "path": path}


README = {"payload/models/m/README.md": b"# a model without weights\n"}
NO_MODEL = {"payload/files/note.txt": b"no model, no wheel\n"}
PICKLE = {"payload/models/m/pytorch_model.bin": b"\x80\x02}q\x00."}
CODE = [f"payload/models/m/{name}" for name in model_files("bf16") if name.endswith((".py", ".jinja"))]
WHEEL = "payload/wheels/vllm-0.19.1-py3-none-any.whl"


def found(
    tmp_path: Path, rules: dict[str, Any], files: Mapping[str, bytes] = README, **members: Any
) -> tuple[set[str], int]:
    bundle = make_bundle(tmp_path, files, policy_members={"rules": rules}, members=members)
    report = bundle.verify().report
    assert (bundle.state.read_text() == "{}") == (report.verdict != "passed")
    return references(report), int(report.exit_code)


@pytest.mark.parametrize(
    ("expression", "allow", "deny", "accepted"),
    [
        ("Apache-2.0", ["Apache-2.0"], [], True),
        ("apache-2.0", ["Apache-2.0"], [], True),
        ("GPL-3.0-only", ["Apache-2.0"], [], False),
        ("", ["Apache-2.0"], [], False),
        ("", [], ["GPL-3.0-only"], False),
        ("NOASSERTION", [], ["GPL-3.0-only"], False),
        ("NONE OR MIT", [], ["GPL-3.0-only"], True),
        ("MIT and GPL-3.0-only", ["MIT"], [], False),
        ("GPL-3.0", [], ["GPL-3.0-only"], False),
        ("GPL-2.0+", [], ["GPL-2.0-or-later"], False),
        ("MIT License", ["MIT"], [], False),
        ("MIT License", ["mit license"], [], True),
        ("not MIT at all", ["MIT"], [], False),
        ("MIT; GPL-3.0-only", ["MIT"], [], False),
        ("MIT OR", ["MIT"], [], False),
        ("(MIT", ["MIT"], [], False),
        (["MIT", "GPL-3.0-only"], ["MIT"], [], False),
        (["MIT", "GPL-3.0-only"], [], ["GPL-3.0-only"], False),
        (["MIT", "Apache-2.0"], ["MIT", "Apache-2.0"], [], True),
        (["MIT", ""], ["MIT"], [], False),
        (["MIT", 1], ["MIT"], [], False),
        ({"name": "MIT"}, [], ["GPL-3.0-only"], False),
        (None, [], ["GPL-3.0-only"], False),
        ("MIT OR GPL-3.0-only", ["MIT"], [], True),
        ("MIT AND GPL-3.0-only", ["MIT"], [], False),
        ("MIT AND (BSD-3-Clause OR GPL-3.0-only)", ["MIT", "BSD-3-Clause"], [], False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], [], False),
        ("MIT", [], ["GPL-3.0-only"], True),
        ("MIT OR GPL-3.0-only", [], ["GPL-3.0-only"], True),
        ("MIT AND GPL-3.0-only", [], ["GPL-3.0-only"], False),
    ],
)
def test_licence_expressions(expression: object, allow: list[str], deny: list[str], accepted: bool) -> None:
    assert (license_fault(expression, allow, deny) == "") is accepted


def test_a_licence_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    rules = {"licenses": {"allow": ["MIT"]}}

    assert found(tmp_path, rules, artifacts=[model()]) == ({"license"}, 12)


def test_a_concluded_licence_counts_before_a_declared_one(tmp_path: Path) -> None:
    rules = {"licenses": {"allow": ["MIT"]}}
    artifact = model(license={"declared": "other", "concluded": "MIT"})

    assert found(tmp_path, rules, artifacts=[artifact]) == (set(), 0)


def test_a_format_that_is_not_accepted_is_refused(tmp_path: Path) -> None:
    rules = {"content": {"formats": ["block-fp8"]}}

    assert found(tmp_path, rules, artifacts=[model()]) == ({"content-format"}, 12)


def test_waived_pickle_is_refused_when_the_policy_says_so(tmp_path: Path) -> None:
    artifact = model(allowPickle=["weights.bin"])

    assert found(tmp_path, {"content": {"pickle": False}}, artifacts=[artifact]) == ({"pickle"}, 12)


FLOOR = {"engines": {"vllm": "0.19.1"}}
TOO_OLD: dict[str, dict[str, Any]] = {
    "a launch entry says an old version": {"launch": [{"engine": {"name": "vllm", "version": "0.19.0"}}]},
    "a launch entry says the name in capitals": {"launch": [{"engine": {"name": "VLLM", "version": "0.1"}}]},
    "a launch entry says no version": {"launch": [{"engine": {"name": "vllm"}}]},
    "a launch entry says a version that is a number": {
        "launch": [{"engine": {"name": "vllm", "version": 1}}]
    },
    "a launch entry says a version of another numbering": {
        "launch": [{"engine": {"name": "vllm", "version": "latest"}}]
    },
    "a launch entry says no engine": {"launch": [{"profile": "p"}]},
    "an epoch lifts an old version": {"launch": [{"engine": {"name": "vllm", "version": "1!0.1"}}]},
    "a purl says an old version": {"artifacts": [wheel(version="0.1")]},
    "a purl says the name in capitals": {"artifacts": [wheel("vLLM", "0.1")]},
    "a purl has qualifiers": {"artifacts": [wheel(purl="pkg:pypi/vllm@0.1?arch=x#y")]},
    "a purl is percent-encoded": {"artifacts": [wheel(purl="pkg:pypi/%76llm@0%2E1")]},
    "a purl has its type in capitals": {"artifacts": [wheel(purl="PKG:PyPI/vllm@0.1")]},
    "a purl has slashes before its type": {"artifacts": [wheel(purl="pkg://pypi/vllm@0.1")]},
    "a purl is of another type": {"artifacts": [wheel(purl="pkg:github/vllm-project/vllm@v0.1")]},
    "a purl has an epoch": {"artifacts": [wheel(purl="pkg:pypi/vllm@1!0.1")]},
    "a purl has no version": {"artifacts": [wheel(purl="pkg:pypi/vllm")]},
    "a purl cannot be read": {"artifacts": [wheel(purl="vllm 0.1")]},
    "an image has an old tag": {
        "artifacts": [{"id": "image:docker.io/vllm/vllm-openai:v0.10.0", "kind": "image"}]
    },
    "an image has no tag": {
        "artifacts": [{"id": "image:x", "kind": "image", "source": {"asked": "r.io:5000/vllm@sha256:00"}}]
    },
    "an image says its name in a purl alone": {
        "artifacts": [{"id": "x", "kind": "image", "purl": "pkg:docker/vllm/vllm-openai@v0.1.0"}]
    },
    "an image says its tag in a qualifier": {
        "artifacts": [{"id": "x", "kind": "image", "purl": "pkg:oci/vllm-openai@sha256:00?tag=v0.1.0"}]
    },
    "an image says its repository in a qualifier": {
        "artifacts": [{"id": "x", "kind": "image", "purl": "pkg:oci/x@1?repository_url=docker.io/vllm/vllm"}]
    },
    "an image says its name in what it resolved to": {
        "artifacts": [{"id": "x", "kind": "image", "source": {"resolved": "docker.io/vllm/vllm:v0.1.0"}}]
    },
    "an image has an id without its kind": {
        "artifacts": [{"id": "docker.io/vllm/vllm-openai:v0.1.0", "kind": "image"}]
    },
    "an image has a new tag beside an old one": {
        "artifacts": [
            {"id": "x/vllm:v9.0", "kind": "image", "source": {"asked": "x/vllm:v0.1"}},
        ]
    },
    "a launch entry says the name in wide letters": {
        "launch": [{"engine": {"name": "\uff56llm", "version": "0.1"}}]
    },
    "a launch entry hides a character in the name": {
        "launch": [{"engine": {"name": "vllm\u200b", "version": "0.1"}}]
    },
    "a purl says the name in wide letters": {"artifacts": [wheel("\uff56llm", "0.1")]},
}


@pytest.mark.parametrize("members", TOO_OLD.values(), ids=TOO_OLD.keys())
def test_an_engine_that_may_be_too_old_is_refused(tmp_path: Path, members: dict[str, Any]) -> None:
    assert found(tmp_path, FLOOR, NO_MODEL, **members) == ({"engine-floor"}, 12)


NEW_ENOUGH: dict[str, dict[str, Any]] = {
    "a launch entry": {"launch": [{"engine": {"name": "vLLM", "version": "0.19.1"}}]},
    "a purl": {"artifacts": [wheel(version="0.19.1.post1")]},
    "a purl of a local build": {"artifacts": [wheel(purl="pkg:pypi/vllm@0.19.1%2Bcu129")]},
    "another project": {"artifacts": [wheel("vllm-extras", "0.1")]},
    "an image": {"artifacts": [{"id": "image:docker.io/vllm/vllm-openai:v0.20.0-cu129", "kind": "image"}]},
    "another image": {"artifacts": [{"id": "image:docker.io/library/debian:12", "kind": "image"}]},
}


@pytest.mark.parametrize("members", NEW_ENOUGH.values(), ids=NEW_ENOUGH.keys())
def test_an_engine_at_or_above_its_floor_passes(tmp_path: Path, members: dict[str, Any]) -> None:
    assert found(tmp_path, FLOOR, NO_MODEL, **members) == (set(), 0)


def test_a_stored_wheel_is_judged_by_its_file_name(tmp_path: Path) -> None:
    files = {"payload/wheels/vLLM-0.1-py3-none-any.whl": packed(wheel_members("vLLM", "0.1"))}

    undescribed = found(tmp_path / "1", FLOOR, files)
    described = found(tmp_path / "2", FLOOR, files, artifacts=[wheel(version="0.1")])
    misdescribed = found(tmp_path / "3", FLOOR, files, artifacts=[wheel(version="0.19.1")])
    elsewhere = found(
        tmp_path / "4", FLOOR, {f"payload/tools/{Path(*files).name}": next(iter(files.values()))}
    )

    assert undescribed == misdescribed == ({"engine-floor", "undescribed-payload"}, 12)
    assert described == elsewhere == ({"engine-floor"}, 12)


def test_floors_and_versions_of_one_epoch_are_compared() -> None:
    assert version_fault("1!0.2", "1!0.1") == ""
    assert version_fault("1!0.1", "1!0.2")
    assert version_fault("2!0.1", "1!0.1")
    assert version_fault("b4567", "b4567") == ""
    assert version_fault("b4568", "b4567")


STRICT: dict[str, Any] = {
    "licenses": {"allow": ["Apache-2.0"]},
    "engines": {"vllm": "0.19.1"},
    "content": {"formats": ["bf16"], "pickle": False},
    "expiry": "enforce",
}
UNDESCRIBED: dict[str, dict[str, Any]] = {
    "no artifacts": {},
    "an empty list": {"artifacts": []},
    "a text": {"artifacts": "text"},
    "an object": {"artifacts": {"a": 1}},
    "null": {"artifacts": [None]},
    "no objects": {"artifacts": [1, None, "x"]},
    "a kind in capitals": {"artifacts": [model(kind="Model")]},
    "a kind that is a list": {"artifacts": [model(kind=["model"])]},
    "another kind": {"artifacts": [model(kind="file")]},
    "a kind of the future": {"artifacts": [model(kind="model-v2")]},
    "another folder": {"artifacts": [model(path="payload/models/other")]},
    "a folder below": {"artifacts": [model(path="payload/models/m/sub")]},
    "a folder whose name begins alike": {"artifacts": [model(path="payload/models/mm")]},
    "a folder that is a list": {"artifacts": [model(path=["payload/models/m"])]},
    "a folder that climbs": {"artifacts": [model(path="payload/x/../models/m")]},
    "no folder": {"artifacts": [{"id": "model:m", "kind": "model", "format": "bf16"}]},
    "no id": {"artifacts": [model(id=None)]},
    "the same folder twice": {"artifacts": [model(), model(id="model:n")]},
    "a folder in another": {"artifacts": [model(), model(id="model:n", path="payload/models")]},
    "one id twice": {"artifacts": [model(), model(path="payload/models/n")]},
    "a file of another kind in its place": {"artifacts": [model(), other_kind("payload/models/m")]},
    "one of its files as another kind": {"artifacts": [model(), other_kind("payload/models/m/README.md")]},
    "all models as a kind of the future": {"artifacts": [model(), other_kind("payload", kind="Model")]},
}


@pytest.mark.parametrize("rules", [STRICT, *({name: STRICT[name]} for name in STRICT)], ids=["all", *STRICT])
def test_any_rule_wants_every_model_described(tmp_path: Path, rules: dict[str, Any]) -> None:
    refs, code = found(tmp_path, rules, PICKLE, artifacts=[])

    assert ("undescribed-payload" in refs, code) == (True, 12)


@pytest.mark.parametrize("members", UNDESCRIBED.values(), ids=UNDESCRIBED.keys())
def test_a_model_that_is_not_described_exactly_once_is_refused(
    tmp_path: Path, members: dict[str, Any]
) -> None:
    refs, code = found(tmp_path, {"expiry": "enforce"}, README, **members)

    assert ("undescribed-payload" in refs, code) == (True, 12)


def test_a_pickle_is_refused_however_it_is_described(tmp_path: Path) -> None:
    whole = {"format": "bf16", "allowPickle": ["pytorch_model.bin"]}
    for number, artifact in enumerate(
        [*[m.get("artifacts", []) for m in UNDESCRIBED.values()], [model(**whole)]]
    ):
        refs, code = found(tmp_path / str(number), STRICT, PICKLE, artifacts=artifact)
        assert refs & {"undescribed-payload", "pickle", "pickle-refused", "empty-model"}, artifact
        assert code == 12


def test_formats_are_those_of_the_files(tmp_path: Path) -> None:
    rules = {"content": {"formats": ["bf16"]}}
    waived = model(format="bf16", allowPickle=["pytorch_model.bin"])
    other = {"payload/models/m/model.onnx": b"\x08\x07onnx"}

    real = {f"payload/models/m/{name}": data for name, data in model_files("bf16").items()}
    wrong: list[tuple[Mapping[str, bytes], dict[str, Any]]] = [
        (PICKLE, waived),
        (other, model()),
        (other, model(format="bf16")),
        (real, model(format=["bf16"])),
    ]

    for number, (files, artifact) in enumerate(wrong):
        refs, code = found(tmp_path / str(number), rules, files, artifacts=[artifact])
        assert ("content-format" in refs, code) == (True, 12), artifact
    for number, artifact in enumerate([model(format="bf16"), model()]):
        artifact = {**artifact, "executable": CODE}
        assert found(tmp_path / f"good{number}", rules, real, artifacts=[artifact]) == (set(), 0)
    only_fp8 = {"content": {"formats": ["block-fp8"]}}
    refs, code = found(tmp_path / "fp8", only_fp8, real, artifacts=[model(executable=CODE)])
    assert (refs, code) == ({"content-format"}, 12)


def test_every_wheel_must_be_described(tmp_path: Path) -> None:
    data = packed(wheel_members("vllm", "0.19.1"))
    digest = hashlib.sha256(data).hexdigest()
    named: dict[str, Any] = {"wheels": [{"filename": Path(WHEEL).name, "sha256": digest, "size": len(data)}]}
    other: dict[str, Any] = {"wheels": [{"filename": Path(WHEEL).name, "sha256": "0" * 64}]}
    index = {"payload/wheels/simple/vllm/index.html": b"", "payload/wheels/locks/v/pylock.toml": b""}
    hidden = {"payload/wheels/simple/vllm/x.whl": data}

    assert found(tmp_path / "1", FLOOR, {WHEEL: data, **index}, artifacts=[wheel(**named)]) == (set(), 0)
    assert found(tmp_path / "2", FLOOR, {WHEEL: data}, artifacts=[wheel()]) == (set(), 0)
    for number, path in enumerate([WHEEL, "payload/wheels"]):
        assert found(tmp_path / f"p{number}", FLOOR, {WHEEL: data}, artifacts=[wheel(path=path)]) == (
            set(),
            0,
        )
    for number, (files, artifacts) in enumerate(
        [
            ({WHEEL: data}, []),
            ({WHEEL: data}, [wheel(**other)]),
            ({WHEEL: data}, [wheel(wheels="all")]),
            ({WHEEL: data}, [wheel(kind="tool")]),
            ({WHEEL: data}, [wheel("torch")]),
            ({WHEEL: data}, [wheel(), wheel(id="again")]),
            ({WHEEL: data}, [wheel(), other_kind(WHEEL)]),
            ({WHEEL: data}, [wheel(path="payload/tools")]),
            ({WHEEL: data}, [wheel("torch", path="payload/wheels")]),
            ({WHEEL: data}, [wheel(path=["payload/wheels"])]),
            ({WHEEL: data, "payload/wheels/vllm-0.19.1.tar.gz": b""}, [wheel()]),
            ({WHEEL: data, "payload/wheels/locks/v/setup.py": b""}, [wheel()]),
        ]
    ):
        assert found(tmp_path / f"b{number}", FLOOR, files, artifacts=artifacts) == (
            {"undescribed-payload"},
            12,
        ), (sorted(files), artifacts)
    assert "undescribed-payload" in found(tmp_path / "h", FLOOR, hidden, artifacts=[wheel()])[0]


def test_what_could_hold_weights_is_no_reference(tmp_path: Path) -> None:
    repository, data = "payload/models/models--a--b", b"0" * 40
    snapshot = f"{repository}/snapshots/{data.decode()}"
    files = {f"{snapshot}/README.md": b"# a model\n", f"{repository}/refs/main": data}
    artifact = model(path=snapshot)

    def judged(name: str, **more: bytes) -> tuple[set[str], int]:
        added = {f"{repository}/refs/{path}": data for path, data in more.items()}
        return found(tmp_path / name, {"expiry": "enforce"}, {**files, **added}, artifacts=[artifact])

    assert judged("good") == (set(), 0)
    assert judged("pickle", **{"pytorch_model.bin": b"\x80\x02}q\x00."}) == ({"undescribed-payload"}, 12)
    assert judged("large", other=bytes(4096)) == ({"undescribed-payload"}, 12)


@pytest.mark.parametrize(
    "path", ["payload/files", "payload/models", "payload/models/m/../x", ["payload/models/m"], "/", None]
)
def test_a_launch_entry_names_a_model_that_was_checked(tmp_path: Path, path: Any) -> None:
    def launched(name: str, path: Any) -> tuple[set[str], int]:
        launch = [{"engine": {"name": "vllm", "version": "1.0"}, "model": {"path": path}}]
        return found(tmp_path / name, FLOOR, artifacts=[model()], launch=launch)

    assert launched("good", "payload/models/m") == (set(), 0)
    assert launched("bad", path) == ({"undescribed-payload"}, 12)


@pytest.mark.parametrize("said", ["soon", None, 1, "2026-13-01T00:00:00Z", ["2099-01-01T00:00:00Z"], {}])
def test_a_date_that_cannot_be_read_counts_as_expired(said: Any) -> None:
    statement = parse_statement(strict_json.dumps(opinion(said)), where="x")
    trust = TrustResult(Authentication((Attestation("x", statement),), ()))

    for expiry, severity in (("enforce", "error"), ("warn", "warning")):
        (finding,) = expiry_findings(Rules(expiry=expiry), None, trust, now=0)
        assert (finding.reference, finding.severity) == ("expired", severity)


def opinion(end: Any) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "manifest.json", "digest": {"sha256": "1" * 64}}],
        "predicateType": "https://example.org/opinion",
        "predicate": {"validUntil": end},
    }


@pytest.mark.parametrize("artifacts", ["text", [1, None, "x"], [{"kind": ["model"]}], {"a": 1}])
def test_members_of_an_unexpected_shape_are_no_crash(tmp_path: Path, artifacts: Any) -> None:
    rules = {"licenses": {"allow": ["MIT"]}, "engines": {"vllm": "1"}, "content": {"formats": ["bf16"]}}

    refs, code = found(tmp_path, rules, artifacts=artifacts, launch=artifacts)

    assert ("undescribed-payload" in refs, code) == (True, 12)
