"""Keys: made, kept, read back, refused."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from bundler.errors import AuthenticityError, MachineError, MalformedError
from bundler.signing.signer import FileSigner, verified
from bundler.trust import keys, spki
from tests.vectors.trust import private_key

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")
ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


def write_key(folder: Path, algorithm: str = spki.ECDSA_P256, mode: int = 0o600) -> Path:
    """An encrypted key file with the passphrase `secret`."""
    path = folder / "a.key"
    path.write_bytes(keys.generate(algorithm).to_pem(b"secret"))
    path.chmod(mode)
    return path


@pytest.mark.parametrize("algorithm", spki.ALGORITHMS)
def test_an_encrypted_key_file_opens_with_its_passphrase_and_no_other(algorithm: str, tmp_path: Path) -> None:
    path = write_key(tmp_path, algorithm)
    assert b"ENCRYPTED" in path.read_bytes()
    key = keys.read_private_key(path, lambda: b"secret")
    assert key.public.algorithm == algorithm
    with pytest.raises(AuthenticityError) as caught:
        keys.read_private_key(path, lambda: b"sesame")
    assert caught.value.reference == "wrong-passphrase"
    assert "secret" not in str(caught.value.findings)


@needs_openssl
@pytest.mark.usefixtures("real_cost")
def test_openssl_opens_our_key_files(tmp_path: Path) -> None:
    path = write_key(tmp_path)
    command = ["openssl", "pkey", "-in", str(path), "-passin", "pass:secret", "-pubout"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == keys.read_private_key(path, lambda: b"secret").public.pem


@pytest.mark.usefixtures("real_cost")
def test_the_passphrase_is_stretched_with_scrypt(tmp_path: Path) -> None:
    der = _der(write_key(tmp_path).read_bytes())
    # The object identifier of scrypt (RFC 7914), then cost 2^14, block 8, parallel 8.
    assert bytes.fromhex("06092b06010401da47040b") in der
    assert bytes.fromhex("02024000020108020108") in der


def _der(pem: bytes) -> bytes:
    import base64

    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_file_that_others_may_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = write_key(tmp_path, mode=mode)
    with pytest.raises(MachineError) as caught:
        keys.read_private_key(path, lambda: b"secret")
    assert caught.value.reference == "key-file-readable"
    assert caught.value.findings[0].hint == f"chmod 600 {path}"


def test_the_passphrase_is_asked_only_when_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "plain.key"
    path.write_bytes(keys.generate().to_pem(None))
    path.chmod(0o400)

    def never() -> bytes:
        raise AssertionError("asked")

    assert keys.read_private_key(path, never).public.algorithm == spki.ECDSA_P256


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"-----BEGIN " + b"PRIVATE KEY-----\nAAAA\n-----END " + b"PRIVATE KEY-----\n"]
)
def test_what_is_no_private_key_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(MalformedError) as caught:
        keys.read_private_key(path, lambda: b"x")
    assert caught.value.reference == "bad-key"


@pytest.mark.parametrize("algorithm", spki.ALGORITHMS)
def test_a_public_key_round_trips_through_pem_with_its_owner_line(algorithm: str) -> None:
    public = keys.generate(algorithm).public
    text = keys.owner_line("Ada Lovelace") + public.pem
    assert keys.parse_public_key(text.encode(), where="x") == public
    assert keys.declared_owner(text.encode()) == "Ada Lovelace"
    assert keys.declared_owner(public.pem.encode()) == ""


def test_the_fingerprint_is_the_sha256_of_the_der_in_groups_of_four() -> None:
    public = private_key("release").public
    assert public.fingerprint == spki.fingerprint(public.spki)
    assert spki.grouped(public.fingerprint).replace(" ", "") == public.fingerprint
    assert {len(group) for group in spki.grouped(public.fingerprint).split()} == {4}


def test_a_private_key_does_not_show_itself() -> None:
    assert "PRIVATE" not in repr(keys.generate())
    assert repr(keys.generate()).startswith("PrivateKey(ecdsa-p256-sha256, ")


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP521R1()),
    ],
    ids=["rsa", "secp256k1", "p521"],
)
def test_keys_of_other_kinds_are_refused(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(MalformedError) as caught:
        keys.parse_public_key(pem, where="x")
    assert caught.value.reference == "bad-key"


@pytest.mark.parametrize(
    ("point", "fault"),
    [
        ("01" + "00" * 31, "the point has a small order"),
        ("00" * 32, "the point has a small order"),
        ("ec" + "ff" * 30 + "7f", "the point has a small order"),
        ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "the point has a small order"),
        ("ee" + "ff" * 30 + "7f", "the coordinate is not below the field's prime"),
        ("01" + "00" * 30 + "80", "the point is not on the curve"),
        ("02" + "00" * 31, "the point is not on the curve"),
    ],
)
def test_ed25519_points_that_are_no_keys_are_refused(point: str, fault: str) -> None:
    assert spki.spki_fault(spki.ED25519, ED25519_PREFIX + bytes.fromhex(point)) == fault


@given(st.sampled_from(["release", "root-2", "legal", "release-pq"]), st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_outside_the_key_itself_is_refused(name: str, place: int, bit: int) -> None:
    public = private_key(name).public
    changed = bytearray(public.spki)
    changed[place % len(ED25519_PREFIX)] ^= 1 << bit
    assert spki.spki_fault(public.algorithm, bytes(changed))


@pytest.mark.parametrize("name", ["release", "root-2"])
def test_a_point_off_the_curve_is_refused(name: str) -> None:
    public = private_key(name).public
    changed = public.spki[:-1] + bytes([public.spki[-1] ^ 1])
    assert spki.spki_fault(public.algorithm, changed) == "the point is not on the curve"
    beyond = public.spki[:-96] + b"\xff" * 96 if name == "root-2" else public.spki[:-64] + b"\xff" * 64
    assert spki.spki_fault(public.algorithm, beyond) == "a coordinate is not below the field's prime"


@given(st.sampled_from(["release", "root-2", "legal", "release-pq"]), st.binary(max_size=50), st.integers(0))
def test_a_signature_with_any_flipped_bit_does_not_verify(name: str, message: bytes, place: int) -> None:
    key = private_key(name)
    signature = key.sign(message)
    assert key.public.verifies(message, signature)
    changed = bytearray(signature)
    changed[place // 8 % len(signature)] ^= 1 << place % 8
    assert not key.public.verifies(message, bytes(changed))


def test_a_signer_never_hands_out_a_signature_that_does_not_verify(tmp_path: Path) -> None:
    signer = FileSigner.open(write_key(tmp_path), lambda: b"secret")
    assert signer.public.verifies(b"m", signer.sign(b"m"))
    with pytest.raises(AuthenticityError) as caught:
        verified(signer.public, b"m", b"\x30\x06\x02\x01\x01\x02\x01\x01")
    assert caught.value.reference == "signing-fault"


def test_where_ml_dsa_is_missing_the_error_names_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    monkeypatch.delattr("cryptography.hazmat.primitives.asymmetric.mldsa", raising=False)
    with pytest.raises(MachineError) as caught:
        keys.generate(spki.ML_DSA_65)
    assert caught.value.reference == "algorithm-unsupported"
    assert caught.value.findings[0].found.startswith("cryptography ")


def test_a_key_file_is_private_from_the_first_byte(tmp_path: Path) -> None:
    assert stat.S_IMODE(write_key(tmp_path).stat().st_mode) == 0o600


def test_a_public_key_in_place_of_the_private_one_is_not_asked_to_be_hidden(tmp_path: Path) -> None:
    path = tmp_path / "release.pub"
    path.write_text(keys.generate().public.pem)
    path.chmod(0o644)
    with pytest.raises(MalformedError, match="bad-key") as caught:
        keys.read_private_key(path, lambda: b"")
    (finding,) = caught.value.findings
    assert "public key" in finding.what
    assert "chmod" not in finding.hint
