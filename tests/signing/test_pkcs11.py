"""Keys on tokens, against the real SoftHSM: chosen, used, never let out, never guessed at."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from bundler.cli.app import run
from bundler.errors import AuthenticityError, MachineError, MalformedError, SealiftError, UsageError
from bundler.signing import pkcs11
from bundler.signing.pkcs11 import Pkcs11Signer, der_signature, raw_point, read_public_key
from bundler.signing.pkcs11_uri import Pkcs11Uri
from bundler.trust import spki
from bundler.trust.keys import generate, parse_public_key
from bundler.trust.perimeter.first_policy import Holder, compose_policy
from tests.servers.softhsm import PIN, SoftHsm, make_softhsm
from tests.verification.bundles import REQUIRE, make_bundle, snapshot

MESSAGE = b"what is signed"


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """One set of tokens for this module: SoftHSM reads its configuration once in a process."""
    made = make_softhsm(tmp_path_factory.mktemp("hsm"), "airgap", "twin", "twin")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        yield made


def right_pin(_what: str) -> str:
    return PIN


def no_pin(what: str) -> str:
    raise AssertionError(f"a PIN was asked for {what}")


def uri(hsm: SoftHsm, text: str) -> Pkcs11Uri:
    """The URI with the module's path."""
    return Pkcs11Uri.parse(f"pkcs11:{text}?module-path={hsm.module}")


def session(hsm: SoftHsm, token: str = "airgap") -> Any:
    """A session as any other PKCS#11 program opens it, logged in and writable."""
    import pkcs11 as python_pkcs11

    library = python_pkcs11.lib(hsm.module)
    return library.get_token(token_label=token).open(rw=True, user_pin=PIN)


@pytest.mark.parametrize("algorithm", pkcs11.ALGORITHMS)
def test_a_key_made_inside_the_token_signs_what_others_verify(
    hsm: SoftHsm, algorithm: str, tmp_path: Path
) -> None:
    where = uri(hsm, f"token=airgap;object=release-{algorithm}")
    public = pkcs11.generate(where, right_pin, algorithm=algorithm)
    assert public.algorithm == algorithm
    with Pkcs11Signer.open(where, right_pin) as signer:
        assert signer.public == public
        signature = signer.sign(MESSAGE)
    assert public.verifies(MESSAGE, signature)
    assert not public.verifies(MESSAGE + b"!", signature)
    if shutil.which("openssl"):
        (tmp_path / "k").write_text(public.pem)
        (tmp_path / "s").write_bytes(signature)
        (tmp_path / "m").write_bytes(MESSAGE)
        digest = "-sha256" if algorithm == spki.ECDSA_P256 else "-sha384"
        command = ["openssl", "dgst", digest, "-verify", "k", "-signature", "s", "m"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_the_private_key_cannot_be_taken_out_of_the_token(hsm: SoftHsm) -> None:
    import pkcs11 as python_pkcs11
    from pkcs11 import Attribute, ObjectClass

    pkcs11.generate(uri(hsm, "token=airgap;object=locked-in"), right_pin)
    with session(hsm) as opened:
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: "locked-in"}
        (key,) = opened.get_objects(wanted)
        assert key[Attribute.SENSITIVE]
        assert key[Attribute.NEVER_EXTRACTABLE]
        with pytest.raises(python_pkcs11.AttributeSensitive):
            _ = key[Attribute.VALUE]
        with pytest.raises(python_pkcs11.PKCS11Error):
            key[Attribute.EXTRACTABLE] = True


def test_the_public_key_is_read_without_a_pin(hsm: SoftHsm) -> None:
    where = uri(hsm, "token=airgap;object=shown")
    public = pkcs11.generate(where, right_pin)
    assert read_public_key(where, no_pin) == public
    assert parse_public_key(public.pem.encode(), where="x") == public


def test_a_public_key_that_the_token_hides_is_read_after_login(hsm: SoftHsm) -> None:
    from pkcs11 import Attribute, KeyType
    from pkcs11.util.ec import encode_named_curve_parameters

    with session(hsm) as opened:
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        domain = opened.create_domain_parameters(KeyType.EC, curve, local=True)
        hidden = {Attribute.PRIVATE: True}
        domain.generate_keypair(store=True, label="hidden", id=b"\x42", public_template=hidden)
    where = uri(hsm, "token=airgap;object=hidden")
    with Pkcs11Signer.open(where, right_pin) as signer:
        public = signer.public
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        return PIN

    assert read_public_key(where, ask) == public
    assert asked == ["token airgap"]


def test_a_wrong_pin_is_refused_and_not_shown(hsm: SoftHsm) -> None:
    where = uri(hsm, "token=airgap;object=guarded")
    pkcs11.generate(where, right_pin)
    with pytest.raises(AuthenticityError) as caught:
        Pkcs11Signer.open(where, lambda what: "111999")
    assert caught.value.reference == "wrong-pin"
    assert "111999" not in str(caught.value.findings)
    with Pkcs11Signer.open(where, right_pin) as signer:
        assert signer.sign(MESSAGE)


@pytest.mark.parametrize(
    ("text", "error", "reference"),
    [
        ("token=elsewhere;object=x", UsageError, "no-such-token"),
        ("token=airgap;serial=0000;object=x", UsageError, "no-such-token"),
        ("token=airgap;manufacturer=Nobody;object=x", UsageError, "no-such-token"),
        ("token=twin;object=x", UsageError, "ambiguous-token"),
        ("token=airgap;object=nothing", UsageError, "no-such-object"),
        ("token=airgap;id=%de%ad", UsageError, "no-such-object"),
    ],
)
def test_what_does_not_select_one_key_is_refused(
    hsm: SoftHsm, text: str, error: type[SealiftError], reference: str
) -> None:
    with pytest.raises(error) as caught:
        Pkcs11Signer.open(uri(hsm, text), right_pin)
    finding = caught.value.findings[0]
    assert finding.reference == reference
    if reference.endswith("token"):
        assert "token=twin" in finding.found
        assert "serial=" in finding.found


def test_two_keys_of_one_name_are_told_apart_by_their_id(hsm: SoftHsm) -> None:
    first = pkcs11.generate(uri(hsm, "token=airgap;object=both;id=%01"), right_pin)
    second = pkcs11.generate(uri(hsm, "token=airgap;object=both;id=%02"), right_pin)
    with pytest.raises(UsageError) as caught:
        Pkcs11Signer.open(uri(hsm, "token=airgap;object=both"), right_pin)
    assert caught.value.reference == "ambiguous-object"
    assert "object=both;id=%01" in caught.value.findings[0].found
    for place, public in (("01", first), ("02", second)):
        where = uri(hsm, f"token=airgap;object=both;id=%{place}")
        with Pkcs11Signer.open(where, right_pin) as signer:
            assert signer.public == public
        assert read_public_key(where, no_pin) == public


def test_a_key_in_a_token_is_never_overwritten(hsm: SoftHsm) -> None:
    where = uri(hsm, "token=airgap;object=once")
    public = pkcs11.generate(where, right_pin)
    with pytest.raises(UsageError) as caught:
        pkcs11.generate(where, right_pin)
    assert caught.value.reference == "object-exists"
    assert read_public_key(where, no_pin) == public
    with pytest.raises(UsageError) as caught:
        pkcs11.generate(uri(hsm, "token=airgap"), right_pin)
    assert caught.value.reference == "no-label"


def test_a_key_of_another_kind_is_refused(hsm: SoftHsm) -> None:
    from pkcs11 import Attribute, KeyType
    from pkcs11.util.ec import encode_named_curve_parameters

    with session(hsm) as opened:
        opened.generate_keypair(KeyType.RSA, 2048, store=True, label="rsa", id=b"\x77")
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp521r1")}
        domain = opened.create_domain_parameters(KeyType.EC, curve, local=True)
        domain.generate_keypair(store=True, label="p521", id=b"\x78")
    for attempt in (Pkcs11Signer.open, read_public_key):
        for label, found in (("rsa", "RSA"), ("p521", "EC on another curve")):
            with pytest.raises(MalformedError) as caught:
                attempt(uri(hsm, f"token=airgap;object={label}"), right_pin)
            assert caught.value.reference == "bad-key"
            assert caught.value.findings[0].found == found


def test_a_public_key_that_does_not_belong_to_the_private_one_stops_the_signature(hsm: SoftHsm) -> None:
    from pkcs11 import Attribute, ObjectClass
    from pkcs11.util.ec import decode_ec_public_key

    where = uri(hsm, "token=airgap;object=swapped;id=%55")
    pkcs11.generate(where, right_pin)
    other = decode_ec_public_key(generate().public.spki)
    with session(hsm) as opened:
        for key in opened.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: b"\x55"}):
            key.destroy()
        named = {Attribute.LABEL: "swapped", Attribute.ID: b"\x55", Attribute.TOKEN: True}
        opened.create_object({**other, **named})
    with Pkcs11Signer.open(where, right_pin) as signer, pytest.raises(AuthenticityError) as caught:
        signer.sign(MESSAGE)
    assert caught.value.reference == "signing-fault"


def test_without_the_extra_the_error_names_it(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(MachineError) as caught:
        Pkcs11Signer.open(uri(hsm, "token=airgap;object=x"), right_pin)
    assert caught.value.reference == "extra-missing"
    assert caught.value.findings[0].hint.startswith("`python3 -m pip install 'sealift[pkcs11]'`")


def test_a_module_must_be_named_and_be_one(tmp_path: Path) -> None:
    text = tmp_path / "module.so"
    text.write_text("no library")
    for path, error, reference in (
        ("", UsageError, "no-pkcs11-module"),
        (str(tmp_path / "missing.so"), MachineError, "pkcs11-module"),
        ("libsofthsm2.so", MachineError, "pkcs11-module"),
        (str(text), MachineError, "pkcs11-module"),
    ):
        with pytest.raises(error) as caught:
            Pkcs11Signer.open(Pkcs11Uri(token="airgap", label="x"), no_pin, module=path)
        assert caught.value.reference == reference


# ---- numbers and points


@given(st.integers(1, 2**256 - 1), st.integers(1, 2**256 - 1))
def test_the_two_numbers_of_a_token_become_der(r: int, s: int) -> None:
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert decode_dss_signature(der_signature(raw, 32)) == (r, s)


@pytest.mark.parametrize("length", [0, 63, 65, 96])
def test_an_answer_of_another_length_is_no_signature(length: int) -> None:
    with pytest.raises(AuthenticityError) as caught:
        der_signature(bytes(length), 32)
    assert caught.value.reference == "signing-fault"


@pytest.mark.parametrize("size", [32, 48])
def test_a_point_is_read_with_and_without_its_wrapping(size: int) -> None:
    point = b"\x04" + bytes(range(2 * size))
    assert raw_point(point, size) == point
    assert raw_point(bytes([4, len(point)]) + point, size) == point


# ---- URIs


def test_a_uri_selects_token_and_key() -> None:
    text = "pkcs11:token=air%20gap;serial=a1;manufacturer=M;model=X;object=rel;id=%01%ff;type=private"
    parsed = Pkcs11Uri.parse(text + "?module-path=/lib/m.so&pin-source=file:/run/pin")
    assert parsed == Pkcs11Uri(
        token="air gap",
        serial="a1",
        manufacturer="M",
        model="X",
        label="rel",
        id=b"\x01\xff",
        module_path="/lib/m.so",
        pin_source="/run/pin",
    )
    assert str(parsed) == "pkcs11:token=air gap;serial=a1;manufacturer=M;model=X;object=rel;id=01ff"


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.binary(min_size=1, max_size=8),
)
def test_every_label_and_id_can_be_written(label: str, key_id: bytes) -> None:
    text = f"pkcs11:object={quote(label, safe='')};id={''.join(f'%{byte:02X}' for byte in key_id)}"
    assert Pkcs11Uri.parse(text) == Pkcs11Uri(label=label, id=key_id)


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11",
        "file:token=a",
        "pkcs11:token",
        "pkcs11:token=",
        "pkcs11:token=a;token=b",
        "pkcs11:slot-id=1",
        "pkcs11:x-vendor=1",
        "pkcs11:token=a;",
        "pkcs11:token=a b",
        "pkcs11:token=%zz",
        "pkcs11:token=%ff",
        "pkcs11:token=%00",
        "pkcs11:type=cert",
        "pkcs11:token=a?module-name=softhsm",
        "pkcs11:token=a?module-path=relative.so",
        "pkcs11:token=a?pin-source=|cat%20/etc/pin",
        "pkcs11:token=a?pin-source=pin",
        "pkcs11:token=a?",
        "pkcs11:" + "a" * 5000,
    ],
)
def test_a_uri_that_is_not_understood_wholly_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pkcs11Uri.parse(text)
    assert caught.value.reference == "bad-pkcs11-uri"


def test_a_pin_on_the_command_line_is_refused_with_the_reason_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        Pkcs11Uri.parse("pkcs11:token=airgap;object=release?pin-value=987654")
    finding = caught.value.findings[0]
    assert finding.reference == "pin-on-command-line"
    assert "can be read by everyone on this machine" in finding.what
    assert "987654" not in str(finding)


# ---- the command


class Desk:
    """Somebody with a token, who types commands."""

    def __init__(self, folder: Path, hsm: SoftHsm) -> None:
        self.folder, self.hsm = folder, hsm
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SEALIFT_")}
        self.environment = {**kept, **hsm.environment}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bundler", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def report(self, *arguments: str, **environment: str) -> Mapping[str, Any]:
        done = self.run(*arguments, "--json", **environment)
        value: Mapping[str, Any] = json.loads(done.stdout)
        assert value["exitCode"] == done.returncode
        return value

    def type_pin(self, pin: str, *arguments: str) -> tuple[int, str]:
        """Run a command on a terminal and type a PIN when asked; exit code and all that was shown."""
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(self.folder)
            os.execve(sys.executable, [sys.executable, "-m", "bundler", *arguments], self.environment)
        shown = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                shown += os.read(terminal, 4096)
            except OSError:
                break
            if b"PIN for" in shown and pin:
                os.write(terminal, pin.encode() + b"\n")
                pin = ""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, make_softhsm(tmp_path / "hsm", "airgap"))


KEY = "pkcs11:token=airgap;object=release"


@pytest.mark.slow
def test_a_bundle_signed_with_a_token_verifies_with_a_policy_made_from_it(desk: Desk) -> None:
    made = desk.report("keys", "generate", "--key", KEY, "--owner", "Rita", "-o", "hsm.pub", SEALIFT_PIN=PIN)
    assert (desk.folder / "hsm.pub").read_text().startswith("Owner: Rita\n")
    shown = desk.report("keys", "show", KEY, "--owner", "Rita", "-o", "again.pub")
    assert shown["fingerprint"] == made["fingerprint"]
    assert (desk.folder / "again.pub").read_bytes() == (desk.folder / "hsm.pub").read_bytes()
    assert desk.run("keys", "fingerprint", KEY).stdout.strip() == made["fingerprint"]

    bundle = make_bundle(desk.folder)
    shutil.rmtree(bundle.root / "attestations")
    public = parse_public_key((desk.folder / "hsm.pub").read_bytes(), where="hsm.pub")
    holders = [Holder(role=role, key=public, owner="Rita") for role in ("root", "release")]
    bundle.policy.write_bytes(compose_policy(holders, thresholds={}, require=REQUIRE))
    signed = desk.report("sign", str(bundle.root), "--key", KEY, SEALIFT_PIN=PIN)
    assert signed["key"] == made["fingerprint"]
    assert desk.report(*bundle.arguments())["verdict"] == "passed"
    before = snapshot(bundle.root)
    assert desk.report("sign", str(bundle.root), "--key", KEY, SEALIFT_PIN=PIN)["written"] == []
    assert snapshot(bundle.root) == before


@pytest.mark.slow
def test_the_pin_comes_from_a_private_file_the_environment_or_a_prompt(desk: Desk) -> None:
    file = desk.folder / "pin"
    file.write_text(PIN + "\n")
    file.chmod(0o644)
    generate = ("keys", "generate", "--key", KEY, "-o", "hsm.pub")
    refused = desk.report(*generate, "--pin-file", "pin")
    assert refused["findings"][0]["reference"] == "key-file-readable"
    assert desk.report(*generate)["findings"][0]["reference"] == "no-pin"
    assert desk.report(*generate, SEALIFT_PIN="")["findings"][0]["reference"] == "no-pin"
    assert not (desk.folder / "hsm.pub").exists()
    file.chmod(0o600)
    assert desk.report(*generate, "--pin-file", "pin")["verdict"] == "passed"
    bundle = make_bundle(desk.folder)
    shutil.rmtree(bundle.root / "attestations")
    source = f"{KEY}?module-path={desk.hsm.module}&pin-source=file:{file}"
    only = ("sign", str(bundle.root), "--statement", "release")
    assert desk.report(*only, "--key", source)["verdict"] == "passed"
    shutil.rmtree(bundle.root / "attestations")
    code, shown = desk.type_pin(PIN, *only, "--key", KEY)
    assert (code, "PIN for token airgap" in shown, PIN in shown) == (0, True, False), shown
    assert (bundle.root / "attestations/release.sigstore.json").exists()


@pytest.mark.parametrize(
    ("key", "pin", "code", "reference"),
    [
        (KEY, "000000", 11, "wrong-pin"),
        ("pkcs11:token=nowhere;object=release", PIN, 2, "no-such-token"),
        ("pkcs11:token=airgap;object=nothing", PIN, 2, "no-such-object"),
        (KEY + "?pin-value=654321", PIN, 2, "pin-on-command-line"),
        ("nowhere.key", PIN, 2, "no-such-key"),
    ],
)
def test_a_refused_signature_leaves_the_bundle_as_it_was(
    hsm: SoftHsm,
    key: str,
    pin: str,
    code: int,
    reference: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make_bundle(tmp_path)
    before = snapshot(bundle.root)
    monkeypatch.setenv("SEALIFT_PIN", pin)
    assert run(["sign", str(bundle.root), "--key", key, "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][0]["reference"] == reference
    assert snapshot(bundle.root) == before


def test_keys_of_other_algorithms_are_not_made_inside_tokens(
    hsm: SoftHsm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.pub"
    options = ["--key", KEY, "--algorithm", "ml-dsa-65", "-o", str(out), "--json"]
    assert run(["keys", "generate", *options]) == 2
    assert json.loads(capsys.readouterr().out)["findings"][0]["reference"] == "algorithm-unsupported"
    assert not out.exists()
