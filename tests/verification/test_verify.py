"""`verify_bundle` over real, signed bundles: what passes, what is refused, and what stays as it was."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.core.manifest import MANIFEST_NAME
from bundler.core.progress import SilentProgress
from bundler.errors import ExitCode, IntegrityError
from bundler.trust.keys import generate
from bundler.trust.perimeter.first_policy import Holder, compose_policy
from bundler.trust.perimeter.state import State
from bundler.verification.checks import PARSED_UNSIGNED
from bundler.verification.verify import VerifiedBundle, verify_bundle
from tests.verification import damages
from tests.verification.bundles import (
    REQUIRE,
    TestBundle,
    default_files,
    make_bundle,
    references,
    sign_bundle,
    snapshot,
    some_bytes,
)
from tests.verification.damages import Damage


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


def by_sentence(damage: Damage) -> str:
    return damage.sentence


def statuses(result: Any) -> dict[int, str]:
    return {outcome.number: outcome.status for outcome in result.outcomes}


@pytest.mark.parametrize("algorithm", ["ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519", "ml-dsa-65"])
def test_a_good_bundle_passes_with_every_algorithm(tmp_path: Path, algorithm: str) -> None:
    result = make_bundle(tmp_path, algorithm=algorithm).verify()

    assert result.report.verdict == "passed"
    assert set(statuses(result).values()) == {"passed"}


def test_a_verified_bundle_says_what_was_verified(bundle: TestBundle) -> None:
    result = bundle.verify()

    assert result.verified is not None
    assert (result.verified.root, result.verified.level) == (bundle.root, "full")
    assert result.verified.manifest == bundle.manifest
    assert set(bundle.files) < set(result.verified.stamps)
    assert result.report.data["bytesRead"] == sum(map(len, bundle.files.values()))


def test_a_bundle_without_chunk_digests_is_compared_file_by_file(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, chunk_size=None)
    assert bundle.verify().report.verdict == "passed"
    damages.flip(bundle.path(damages.WEIGHTS), 9)

    finding = bundle.verify().report.findings[0]

    assert (finding.reference, finding.where) == ("digest-mismatch", f"{damages.WEIGHTS}, bytes 0-40976")


def test_nobody_else_makes_a_verified_bundle(bundle: TestBundle) -> None:
    verified = bundle.verify().verified
    assert verified is not None

    with pytest.raises(TypeError, match="only verify_bundle"):
        dataclasses.replace(verified, seal=object())
    assert isinstance(verified, VerifiedBundle)


def test_success_is_remembered_and_nothing_else_is_written(bundle: TestBundle) -> None:
    before = snapshot(bundle.root)

    result = bundle.verify()

    assert result.verified is not None
    state = State.parse(bundle.state.read_bytes())
    assert state.serials == {"test/stable": 7}
    assert state.last["test/stable"].manifest == result.verified.manifest.sha256
    assert snapshot(bundle.root) == before


@pytest.mark.parametrize("level", ["signatures", "quick"])
def test_lesser_levels_remember_nothing_and_name_what_they_did_not_look_at(
    bundle: TestBundle, level: str
) -> None:
    result = bundle.verify(level)

    assert result.report.verdict == "passed"
    assert bundle.state.read_text() == "{}"
    assert result.report.data["bytesRead"] == 0
    assert "step 8 (every byte): not part of level " + level in result.report.data["notChecked"]


@pytest.mark.parametrize("damage", damages.ALL, ids=by_sentence)
def test_damage_is_refused_and_named_and_nothing_changes(bundle: TestBundle, damage: Damage) -> None:
    damage.do(bundle)
    before, state = snapshot(bundle.root), bundle.state.read_bytes()

    result = bundle.verify()

    assert result.verified is None
    assert result.report.verdict == "failed"
    assert int(result.report.exit_code) == damage.exit_code
    fitting = [finding for finding in result.report.findings if finding.reference == damage.reference]
    assert any(damage.where in finding.where for finding in fitting), result.report.findings
    assert statuses(result)[damage.step] == "failed"
    assert all(status == "not-run" for number, status in statuses(result).items() if number > damage.step)
    assert (snapshot(bundle.root), bundle.state.read_bytes()) == (before, state)


@pytest.mark.parametrize("damage", damages.INTEGRITY[:5], ids=by_sentence)
def test_what_only_reading_finds_passes_the_quick_level_which_says_so(
    bundle: TestBundle, damage: Damage
) -> None:
    damage.do(bundle)

    report = bundle.verify("quick").report

    assert report.verdict == "passed"
    assert "step 8 (every byte): not part of level quick" in report.data["notChecked"]


def test_all_findings_of_a_step_are_told(bundle: TestBundle) -> None:
    bundle.path(damages.TWO).unlink()
    bundle.path("extra").write_bytes(b"")
    os.truncate(bundle.path(damages.WEIGHTS), 5)
    os.mkfifo(bundle.path("pipe"))

    assert references(bundle.verify().report) == {"missing-file", "extra-file", "wrong-size", "special-file"}


def test_damage_in_several_files_is_told_for_each(bundle: TestBundle) -> None:
    for path in (damages.WEIGHTS, damages.TWO, "README.md", "SHA256SUMS"):
        damages.flip(bundle.path(path), 1)

    where = {finding.where.split(",")[0] for finding in bundle.verify().report.findings}

    assert where == {damages.WEIGHTS, damages.TWO, "README.md", "SHA256SUMS"}


def test_a_damaged_chunk_list_does_not_hide_damage_elsewhere(bundle: TestBundle) -> None:
    damages.flip(bundle.path("payload/chunks.sha256"), 0)
    damages.flip(bundle.path(damages.WEIGHTS), 0)

    where = {finding.where.split(",")[0] for finding in bundle.verify().report.findings}

    assert where == {"payload/chunks.sha256", damages.WEIGHTS}


def test_a_signed_chunk_list_that_does_not_fit_its_files_is_refused(tmp_path: Path) -> None:
    files = default_files()
    bundle = make_bundle(tmp_path, files)
    value = json.loads(bundle.path(MANIFEST_NAME).read_bytes())
    value["chunks"]["size"] *= 2
    bundle.path(MANIFEST_NAME).write_text(json.dumps(value))
    sign_bundle(bundle.root, bundle.key)

    assert references(bundle.verify().report) == {"chunk-list-length"}


def test_a_root_that_is_a_link_is_refused(bundle: TestBundle, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle.root)

    with pytest.raises(IntegrityError) as refused:
        verify_bundle(tmp_path / "link", bundle.perimeter())

    assert refused.value.reference == "root-is-link"


def test_an_older_serial_is_refused_and_the_state_kept(tmp_path: Path) -> None:
    new = make_bundle(tmp_path)
    assert new.verify().verified is not None
    state = new.state.read_bytes()
    old = make_bundle(tmp_path, {"README.md": b"old"}, serial=6, key=new.key)
    for path in set(new.files) - set(old.files):
        (old.root / path).unlink()

    result = old.verify("signatures")

    assert (references(result.report), result.report.exit_code) == (
        {"serial-rollback"},
        ExitCode.AUTHENTICITY,
    )
    assert new.state.read_bytes() == state


def test_a_missing_state_needs_the_policy_digest_typed(bundle: TestBundle) -> None:
    bundle.state.unlink()
    report = bundle.verify().report
    assert references(report) == {"state-missing"}

    typed = f"sha256:{report.data['policy']['sha256']}"
    perimeter = dataclasses.replace(bundle.perimeter(), first_use=typed)

    assert verify_bundle(bundle.root, perimeter).report.verdict == "passed"
    assert bundle.state.exists()


class Unwritable(SilentProgress):
    """Takes the state's folder away while the bundle is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def advance(self, count: int) -> None:
        if self.folder.is_dir():
            self.folder.rename(self.folder.with_name("gone"))
            self.folder.write_bytes(b"a file where the folder was")


def test_a_state_that_cannot_be_written_is_no_success(bundle: TestBundle) -> None:
    result = bundle.verify(progress=Unwritable(bundle.state.parent))

    assert (references(result.report), result.verified) == ({"state-not-written"}, None)
    assert result.report.exit_code == ExitCode.MACHINE


class Adding(SilentProgress):
    """Puts a file into the bundle while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def advance(self, count: int) -> None:
        self.path.write_bytes(b"late")


def test_a_huge_manifest_is_parsed_when_it_is_signed(tmp_path: Path) -> None:
    # An unknown member is kept and shown; its size is the point.
    bundle = make_bundle(tmp_path, members={"remarks": "x" * (PARSED_UNSIGNED + 1)})
    assert bundle.verify().report.verdict == "passed"


def test_a_huge_manifest_that_only_a_revoked_key_signed_is_not_parsed(tmp_path: Path) -> None:
    lost = generate()
    bundle = make_bundle(tmp_path, key=lost, members={"remarks": "x" * (PARSED_UNSIGNED + 1)})
    kept = generate()
    holders = [Holder(role=role, key=kept.public, owner="bob") for role in ("root", "release")]
    holders.append(Holder(role="release", key=lost.public, owner="alice"))
    policy = json.loads(compose_policy(holders, thresholds={}, require=REQUIRE))
    policy["revoked"] = {"keys": {lost.public.fingerprint: "lost"}}
    bundle.policy.write_text(json.dumps(policy))
    report = bundle.verify().report
    assert (report.exit_code, references(report)) == (11, {"unsigned-manifest"})


def test_a_file_that_appears_while_others_are_read_is_refused(bundle: TestBundle) -> None:
    result = bundle.verify(progress=Adding(bundle.path("payload/late.py")))

    (finding,) = result.report.findings
    assert (finding.reference, finding.where) == ("changed-while-verifying", "payload/late.py")
    assert finding.found == "it appeared"


def test_only_the_bytes_read_first_count_as_the_manifest(
    bundle: TestBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bundler.verification.checks import Checks

    real = Checks.check_signatures

    def swapping(checks: Checks) -> Any:
        data = bundle.path(MANIFEST_NAME).read_bytes()
        bundle.path(MANIFEST_NAME).write_bytes(data)  # the same bytes, another time
        return real(checks)

    monkeypatch.setattr(Checks, "check_signatures", swapping)

    report = bundle.verify().report

    assert references(report) == {"changed-while-verifying"}
    assert report.findings[0].where == MANIFEST_NAME


def test_an_expired_policy_is_told_and_with_enforce_refused(tmp_path: Path) -> None:
    expired = {"expires": "2001-01-01T00:00:00Z"}
    warned = make_bundle(tmp_path / "w", policy_members=expired).verify()
    members = {**expired, "rules": {"expiry": "enforce"}}
    refused = make_bundle(tmp_path / "e", {}, policy_members=members).verify()

    assert (warned.report.verdict, warned.report.findings[0].severity) == ("passed", "warning")
    assert (references(refused.report), int(refused.report.exit_code)) == ({"expired"}, 12)


def test_a_clock_set_back_does_not_make_an_expired_policy_valid(tmp_path: Path) -> None:
    members = {"expires": "2026-01-01T00:00:00Z", "rules": {"expiry": "enforce"}}
    bundle = make_bundle(tmp_path, {}, policy_members=members)  # the signed manifest is of November 2026
    perimeter = dataclasses.replace(bundle.perimeter(), clock=lambda: 0.0)

    assert references(verify_bundle(bundle.root, perimeter).report) == {"expired"}


def test_headers_are_checked_at_level_quick(tmp_path: Path) -> None:
    model = {"id": "model:m", "kind": "model", "path": "payload/models/m", "format": "any", "executable": []}
    files = {
        "payload/models/m/model.safetensors": (2**40).to_bytes(8, "little") + b"{}",
        "payload/wheels/x-1-py3-none-any.whl": some_bytes(100),
    }
    bundle = make_bundle(tmp_path, files, members={"artifacts": [model]})

    result = bundle.verify("quick")

    assert statuses(result)[7] == "failed"
    where = {finding.where for finding in result.report.findings}
    assert any("model.safetensors" in place for place in where)
    assert any(place.startswith("payload/wheels/x-1-py3-none-any.whl") for place in where)


def test_code_in_a_model_that_its_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    model = {"id": "model:m", "kind": "model", "path": "payload/models/m", "format": "any", "executable": []}
    bundle = make_bundle(
        tmp_path, {"payload/models/m/modeling.py": b"x = 1\n"}, members={"artifacts": [model]}
    )

    report = bundle.verify("quick").report

    assert ("unlisted-code", "payload/models/m/modeling.py") in {
        (f.reference, f.where) for f in report.findings
    }


@pytest.mark.parametrize("path", ["..", "../..", "/etc", "payload/models/../../..", ""])
def test_a_hostile_artifact_path_opens_nothing_outside(tmp_path: Path, path: str) -> None:
    model = {"id": "model:m", "kind": "model", "path": path, "format": "any", "executable": []}
    (tmp_path / "secret.safetensors").write_bytes(b"x")

    report = make_bundle(tmp_path, members={"artifacts": [model]}).verify("quick").report

    assert not any("secret" in finding.where for finding in report.findings)


def mount_namespace_works() -> bool:
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(
    not mount_namespace_works(), reason="needs `unshare -m` (util-linux) and the right to mount"
)
@pytest.mark.parametrize(
    ("mount", "where"),
    [
        ("mount -t tmpfs none {root}/payload/models/m", "payload/models/m"),
        ("mount --bind {root}/payload/records {root}/payload/models/m", "payload/models/m"),
        ("mount --bind {root}/README.md {root}/payload/models/m/two.bin", "payload/models/m/two.bin"),
    ],
    ids=["another file system", "a folder of the same file system", "one file"],
)
def test_a_mount_inside_the_bundle_is_refused(bundle: TestBundle, mount: str, where: str) -> None:
    script = mount.format(root=bundle.root) + ' && exec "$@"'
    sealift = [sys.executable, "-m", "bundler", *bundle.arguments("--json")]

    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *sealift], capture_output=True, text=True, check=False
    )

    found = json.loads(done.stdout)["findings"]
    assert done.returncode == 10
    assert ("mount-inside", where) in {(finding["reference"], finding["where"]) for finding in found}


def test_a_state_nobody_may_write_is_told_before_a_byte_is_read(
    bundle: TestBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundler.verification.verify.may_write_below", lambda folder: False)

    report = bundle.verify().report

    assert (references(report), int(report.exit_code)) == ({"state-not-writable"}, 4)
    assert report.data["bytesRead"] == 0
    assert bundle.verify("quick").report.verdict == "passed"


def test_a_release_that_is_known_needs_no_writable_state(
    bundle: TestBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundle.verify().report.verdict == "passed"
    monkeypatch.setattr("bundler.verification.verify.may_write_below", lambda folder: False)

    assert bundle.verify().report.verdict == "passed"


def test_verified_but_not_remembered_is_not_called_refused(
    bundle: TestBundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **options: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bundler.trust.perimeter.state_files.StateFiles.advance", full)

    code = run(bundle.arguments("--no-progress"))

    said = capsys.readouterr().out
    assert code == 4
    assert "VERIFIED, NOT REMEMBERED" in said
    assert "REFUSED" not in said
