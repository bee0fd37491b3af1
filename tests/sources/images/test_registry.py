"""The registry client: who it says it is to whom, and what it refuses to believe."""

from __future__ import annotations

import base64
import json
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.content.oci import MANIFEST_LIMIT, Descriptor
from bundler.errors import IntegrityError, MachineError, MalformedError, NetworkError, SealiftError
from bundler.sources.http import Timeouts, TransientError, session
from bundler.sources.images.authorization import Authorizations
from bundler.sources.images.registry import RegistryClient
from bundler.sources.images.registry_auth import Credentials, DockerConfig, check_realm
from bundler.sources.retry import RetryPolicy
from tests.servers.registry import Fault, FaultyRegistry

QUICK = RetryPolicy(tries=3, first=0.01, jitter=lambda: 0.0)
SECRET = "pa55-w0rd"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(tmp_path / "registry") as serving:
        yield serving


def client_of(registry: FaultyRegistry, config: DockerConfig | None = None) -> RegistryClient:
    return RegistryClient(
        registry.host,
        plain_http=True,
        config=config or DockerConfig(),
        retries=QUICK,
        timeouts=Timeouts(connect=5, stall=5),
    )


def login(registry: FaultyRegistry, user: str = "ann", password: str = SECRET) -> DockerConfig:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return DockerConfig(auths={registry.host: {"auth": pair}})


def told(error: SealiftError) -> str:
    """Everything an error says, also in its causes."""
    findings = " ".join(" ".join(finding.to_json().values()) for finding in error.findings)
    return f"{error!r} {findings} {error.__cause__!r} {error.__context__!r}"


# --- authorization ---


def test_an_anonymous_bearer_token_is_fetched_once_and_used_for_all_that_follows(
    registry: FaultyRegistry,
) -> None:
    registry.auth = "bearer"
    registry.add_image("demo/app", "v1")
    client = client_of(registry)
    first = client.manifest("demo/app", "v1")
    assert client.manifest("demo/app", "v1") == first
    assert len(registry.seen("/token")) == 1
    assert "scope=repository%3Ademo%2Fapp%3Apull" in registry.seen("/token")[0].path
    assert "service=registry%2C+of+tests" in registry.seen("/token")[0].path


def test_a_token_that_has_run_out_is_renewed_and_the_request_made_again(registry: FaultyRegistry) -> None:
    registry.auth, registry.users = "bearer", {"ann": SECRET}
    registry.add_image("demo/app", "v1")
    client = client_of(registry, login(registry))
    client.manifest("demo/app", "v1")
    registry.tokens.clear()
    assert client.manifest("demo/app", "v1").digest.startswith("sha256:")
    assert len(registry.seen("/token")) == 2


def test_a_registry_that_takes_no_token_at_all_is_given_up_with_the_login_command(
    registry: FaultyRegistry,
) -> None:
    registry.auth, registry.token_seconds = "bearer", -1.0
    registry.add_image("demo/app", "v1")
    with pytest.raises(NetworkError) as caught:
        client_of(registry).manifest("demo/app", "v1")
    finding = caught.value.findings[0]
    assert finding.reference == "registry-unauthorized"
    assert finding.found == "status 401 with the credentials there are"
    assert f"docker login {registry.host}" in finding.hint
    assert len(registry.seen("/token")) == 2


def test_a_basic_password_is_sent_after_the_challenge_and_no_earlier(registry: FaultyRegistry) -> None:
    registry.auth, registry.users = "basic", {"ann": SECRET}
    registry.add_image("demo/app", "v1")
    client_of(registry, login(registry)).manifest("demo/app", "v1")
    first, second = registry.seen("/manifests/v1")
    assert "authorization" not in first.headers
    assert second.headers["authorization"] == Credentials(username="ann", password=SECRET).basic


def test_a_wrong_basic_password_is_tried_once(registry: FaultyRegistry) -> None:
    registry.auth, registry.users = "basic", {"ann": "other"}
    registry.add_image("demo/app", "v1")
    with pytest.raises(NetworkError) as caught:
        client_of(registry, login(registry)).manifest("demo/app", "v1")
    assert caught.value.reference == "registry-unauthorized"
    assert caught.value.findings[0].what == "the registry does not accept our credentials"
    assert len(registry.seen("/manifests/v1")) == 2
    assert SECRET not in told(caught.value)


def test_without_credentials_a_basic_registry_says_which_login_it_wants(registry: FaultyRegistry) -> None:
    registry.auth, registry.users = "basic", {"ann": SECRET}
    with pytest.raises(NetworkError) as caught:
        client_of(registry).manifest("demo/app", "v1")
    assert caught.value.reference == "registry-unauthorized"
    assert caught.value.findings[0].what == "the registry wants a login"
    assert caught.value.findings[0].found == "status 401, and no credentials"


def test_a_password_the_token_service_refuses_is_not_repeated_in_the_error(registry: FaultyRegistry) -> None:
    registry.auth, registry.users = "bearer", {"ann": "other"}
    with pytest.raises(NetworkError) as caught:
        client_of(registry, login(registry)).manifest("demo/app", "v1")
    assert caught.value.reference == "registry-login-refused"
    assert caught.value.findings[0].found == "status 401"
    assert caught.value.findings[0].where == f"{registry.url}/token"
    assert SECRET not in told(caught.value)


def test_an_identity_token_is_exchanged_by_post(registry: FaultyRegistry) -> None:
    registry.auth, registry.identity_tokens = "bearer", {"identity-1"}
    registry.users = {"ann": SECRET}
    registry.add_image("demo/app", "v1")
    config = DockerConfig(auths={registry.host: {"identitytoken": "identity-1"}})
    client_of(registry, config).manifest("demo/app", "v1")
    (asked,) = registry.seen("/token")
    assert asked.method == "POST"
    assert "identity-1" not in asked.path


def test_a_token_service_without_tls_elsewhere_gets_nothing(registry: FaultyRegistry) -> None:
    registry.auth, registry.realm = "bearer", "http://tokens.example/token"
    with pytest.raises(NetworkError) as caught:
        client_of(registry, login(registry)).manifest("demo/app", "v1")
    finding = caught.value.findings[0]
    assert finding.reference == "insecure-token-realm"
    assert finding.expected == "a realm that begins with https://"
    assert finding.found == "http://tokens.example/token"
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize(
    ("realm", "registry_url", "accepted"),
    [
        pytest.param("https://auth.example/t", "https://r.example", True, id="https to another host"),
        pytest.param("http://r.example/t", "https://r.example", False, id="http for an https registry"),
        pytest.param("http://127.0.0.1:1/t", "https://r.example", False, id="http to loopback for https"),
        pytest.param("http://127.0.0.1:1/t", "http://127.0.0.1:2", True, id="loopback for loopback"),
        pytest.param("http://r.example/t", "http://r.example", True, id="plain registry, own host"),
        pytest.param("http://x.example/t", "http://r.example", False, id="plain registry, other host"),
        pytest.param("ftp://r.example/t", "http://r.example", False, id="no web address"),
        pytest.param("", "https://r.example", False, id="no realm"),
        pytest.param("https:///t", "https://r.example", False, id="no host"),
    ],
)
def test_realms_are_judged_by_where_the_password_would_travel(
    realm: str, registry_url: str, accepted: bool
) -> None:
    if accepted:
        check_realm(realm, registry_url=registry_url)
        return
    with pytest.raises(NetworkError, match="insecure-token-realm"):
        check_realm(realm, registry_url=registry_url)


def test_a_password_never_crosses_a_network_over_plain_http() -> None:
    config = DockerConfig(auths={"r.example": {"username": "ann", "password": SECRET}})
    made = Authorizations(
        "r.example", "http://r.example", config=config, session=session(), timeouts=Timeouts()
    )
    with pytest.raises(NetworkError) as caught:
        made.renew("demo/app", 'Basic realm="x"', used="", tried=Counter())
    assert caught.value.reference == "credentials-over-plain-http"
    assert "remove plainHttp" in caught.value.findings[0].hint
    assert SECRET not in told(caught.value)


def test_a_token_with_a_line_break_does_not_become_a_header(registry: FaultyRegistry) -> None:
    registry.auth = "bearer"
    with FaultyRegistry(registry.root.parent / "other") as service:
        service.always["/tokens"] = Fault(
            body=b'{"token": "a\\r\\nX-Evil: 1"}', content_type="application/json"
        )
        registry.realm = f"{service.url}/tokens"
        with pytest.raises(NetworkError) as caught:
            client_of(registry).manifest("demo/app", "v1")
    assert caught.value.reference == "bad-token-answer"
    assert caught.value.findings[0].expected == "JSON with token or access_token"


# --- redirects ---


@pytest.mark.parametrize("auth", ["bearer", "basic"])
def test_no_credentials_follow_a_blob_to_another_origin(tmp_path: Path, auth: str) -> None:
    with (
        FaultyRegistry(tmp_path / "registry", auth=auth) as registry,
        FaultyRegistry(tmp_path / "registry") as storage,
    ):
        registry.users = {"ann": SECRET}
        registry.blobs_elsewhere = storage.url
        blob = registry.add_blob(b"bytes" * 1000, "application/octet-stream")
        client = client_of(registry, login(registry))
        descriptor = Descriptor(blob["mediaType"], blob["digest"], blob["size"])
        assert client.small_blob("demo/app", descriptor, 10_000) == b"bytes" * 1000
        assert any("authorization" in one.headers for one in registry.requests)
        assert len(storage.requests) == 1
        assert "authorization" not in storage.requests[0].headers
        assert "cookie" not in storage.requests[0].headers


def test_a_netrc_file_is_not_consulted(
    registry: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login ann password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    registry.add_image("demo/app", "v1")
    client_of(registry).manifest("demo/app", "v1")
    assert all("authorization" not in one.headers for one in registry.requests)


@pytest.mark.parametrize("status", [401, 403])
def test_a_signed_address_is_not_shown_when_storage_refuses(tmp_path: Path, status: int) -> None:
    with FaultyRegistry(tmp_path / "registry") as registry, FaultyRegistry(tmp_path / "registry") as storage:
        registry.blobs_elsewhere = storage.url
        storage.always["/blobs/"] = Fault(status=status)
        blob = registry.add_blob(b"x", "application/octet-stream")
        with pytest.raises(NetworkError) as caught:
            client_of(registry).small_blob(
                "demo/app", Descriptor(blob["mediaType"], blob["digest"], blob["size"]), 10
            )
    assert caught.value.reference == "storage-refused"
    assert "s3cret" not in told(caught.value)


# --- what a registry may answer ---


def test_busy_answers_are_waited_out(registry: FaultyRegistry) -> None:
    registry.add_image("demo/app", "v1")
    registry.faults["/manifests/"] = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=503)]
    assert client_of(registry).manifest("demo/app", "v1").digest.startswith("sha256:")
    assert len(registry.seen("/manifests/v1")) == 3


def test_a_registry_that_stays_busy_is_given_up_as_a_network_error(registry: FaultyRegistry) -> None:
    registry.always["/manifests/"] = Fault(status=503)
    with pytest.raises(TransientError) as caught:
        client_of(registry).manifest("demo/app", "v1")
    assert caught.value.reference == "server-busy"
    assert caught.value.findings[0].found == "HTTP status 503"
    assert len(registry.seen("/manifests/v1")) == 3


def test_what_is_not_there_is_named(registry: FaultyRegistry) -> None:
    with pytest.raises(NetworkError) as caught:
        client_of(registry).manifest("demo/app", "v9")
    assert caught.value.reference == "image-not-found"
    assert caught.value.findings[0].where == f"{registry.url}/v2/demo/app/manifests/v9"
    assert client_of(registry).optional_manifest("demo/app", "v9") is None


def test_a_forbidden_image_stops_at_once(registry: FaultyRegistry) -> None:
    registry.always["/manifests/"] = Fault(status=403)
    with pytest.raises(NetworkError) as caught:
        client_of(registry).manifest("demo/app", "v1")
    assert caught.value.reference == "registry-forbidden"
    assert caught.value.findings[0].expected == "permission to pull"
    assert len(registry.requests) == 1


def test_a_web_page_in_place_of_a_manifest_is_refused(registry: FaultyRegistry) -> None:
    registry.always["/manifests/"] = Fault(body=b"<html>", content_type="text/html; charset=utf-8")
    with pytest.raises(MalformedError) as caught:
        client_of(registry).manifest("demo/app", "v1")
    assert caught.value.reference == "unsupported-manifest"
    assert caught.value.findings[0].found == "Content-Type 'text/html'"


def test_a_manifest_beyond_the_limit_is_refused_before_it_is_read(registry: FaultyRegistry) -> None:
    big = b" " * (MANIFEST_LIMIT + 1)
    registry.always["/manifests/"] = Fault(
        body=big, content_type="application/vnd.oci.image.manifest.v1+json"
    )
    with pytest.raises(MalformedError) as caught:
        client_of(registry).manifest("demo/app", "v1")
    finding = caught.value.findings[0]
    assert finding.reference == "manifest-too-large"
    assert finding.expected == "at most 4194304 bytes"
    assert finding.found == "4194305 bytes announced"


def test_a_manifest_that_is_not_its_digest_is_refused_with_both_digests(registry: FaultyRegistry) -> None:
    image = registry.add_image("demo/app", "v1")
    other = registry.add_image("demo/app", "v2", text=b"other")
    registry.blob_path(image["digest"]).write_bytes(registry.blob_path(other["digest"]).read_bytes())
    with pytest.raises(IntegrityError) as caught:
        client_of(registry).manifest("demo/app", image["digest"])
    finding = caught.value.findings[0]
    assert finding.reference == "manifest-digest-mismatch"
    assert finding.where == f"{registry.host}/demo/app@{image['digest']}"
    assert (finding.expected, finding.found) == (image["digest"], other["digest"])


def test_a_tag_whose_announced_digest_is_another_is_refused(registry: FaultyRegistry) -> None:
    image = registry.add_image("demo/app", "v1")
    registry.blob_path(image["digest"]).write_bytes(b"{}")
    with pytest.raises(IntegrityError) as caught:
        client_of(registry).manifest("demo/app", "v1")
    assert caught.value.reference == "manifest-digest-mismatch"
    assert caught.value.findings[0].expected == image["digest"]


def test_a_corrupt_small_blob_is_refused(registry: FaultyRegistry) -> None:
    blob = registry.add_blob(b"config", "application/json")
    registry.always["/blobs/"] = Fault(flip=True)
    with pytest.raises(IntegrityError) as caught:
        client_of(registry).small_blob("demo/app", Descriptor("", blob["digest"], blob["size"]), 100)
    assert caught.value.reference == "blob-digest-mismatch"
    assert caught.value.findings[0].expected == blob["digest"]


def test_a_small_blob_beyond_its_limit_is_not_even_asked_for(registry: FaultyRegistry) -> None:
    with pytest.raises(MalformedError) as caught:
        client_of(registry).small_blob("demo/app", Descriptor("", "sha256:" + "0" * 64, 101), 100)
    assert caught.value.reference == "blob-too-large"
    assert caught.value.findings[0].found == "101 bytes"
    assert registry.requests == []


def test_a_blob_continues_where_it_stopped(registry: FaultyRegistry) -> None:
    blob = registry.add_blob(bytes(range(256)) * 40, "application/octet-stream")
    client = client_of(registry)
    with client.open_blob("demo/app", blob["digest"], 10_000, blob["size"]) as body:
        assert b"".join(body) == (bytes(range(256)) * 40)[10_000:]
    assert registry.seen("/blobs/")[0].headers["range"] == "bytes=10000-"
    assert registry.sent(blob["digest"]) == 240


def test_a_registry_that_ignores_range_is_read_from_the_start(registry: FaultyRegistry) -> None:
    blob = registry.add_blob(bytes(range(256)) * 40, "application/octet-stream")
    registry.always["/blobs/"] = Fault(no_range=True)
    with client_of(registry).open_blob("demo/app", blob["digest"], 10_000, blob["size"]) as body:
        assert b"".join(body) == (bytes(range(256)) * 40)[10_000:]


def test_referrers_are_read_page_by_page_on_the_same_registry_only(registry: FaultyRegistry) -> None:
    page = b'{"schemaVersion":2,"manifests":[{"digest":"x"}]}'
    oci = "application/vnd.oci.image.index.v1+json"
    digest = "sha256:" + "0" * 64
    following = {"Link": f'</v2/demo/app/referrers/{digest}?page=2>; rel="next"'}
    registry.faults["/referrers/"] = [
        Fault(body=page, content_type=oci, headers=following),
        Fault(body=page, content_type=oci),
        Fault(body=page, content_type=oci, headers={"Link": '<https://evil.example/x>; rel="next"'}),
    ]
    client = client_of(registry)
    assert client.referrers("demo/app", digest) == ({"digest": "x"},) * 2
    with pytest.raises(NetworkError) as caught:
        client.referrers("demo/app", digest)
    assert caught.value.reference == "bad-link"
    assert caught.value.findings[0].found == "a next page on another host: https://evil.example/x"


def test_a_registry_without_the_referrers_api_is_asked_once(registry: FaultyRegistry) -> None:
    registry.no_referrers_api = True
    client = client_of(registry)
    assert client.referrers("demo/app", "sha256:" + "0" * 64) is None
    assert client.referrers("demo/app", "sha256:" + "1" * 64) is None
    assert len(registry.seen("/referrers/")) == 1


# --- docker's configuration ---


def helper(folder: Path, name: str, script: str) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_the_configuration_is_read_from_docker_config(tmp_path: Path) -> None:
    pair = base64.b64encode(b"ann:a:b").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"https://r.example/v1/": {"auth": pair}}}))
    config = DockerConfig.read({"DOCKER_CONFIG": str(tmp_path), "HOME": "/nonexistent"})
    assert config.credentials("r.example") == Credentials(username="ann", password="a:b")
    assert config.credentials("other.example") is None
    assert DockerConfig.read({"HOME": str(tmp_path)}) == DockerConfig()


@pytest.mark.parametrize("name", ["docker.io", "registry-1.docker.io"])
def test_docker_hub_is_found_under_its_historical_name(name: str) -> None:
    config = DockerConfig(auths={"https://index.docker.io/v1/": {"username": "ann", "password": "b"}})
    assert config.credentials(name) == Credentials(username="ann", password="b")


def test_an_entry_left_empty_by_a_helper_is_no_credential() -> None:
    assert DockerConfig(auths={"r.example": {}}).credentials("r.example") is None


def test_printing_credentials_or_configuration_shows_no_secret() -> None:
    config = DockerConfig(auths={"r.example": {"username": "ann", "password": SECRET}})
    assert SECRET not in repr(config) + repr(config.credentials("r.example"))


def test_a_helper_for_one_registry_is_asked_for_that_one_only(programs: Path, tmp_path: Path) -> None:
    answer = json.dumps({"ServerURL": "r.example", "Username": "ann", "Secret": SECRET})
    helper(programs, "fake", f"cat > {tmp_path}/asked; echo '{answer}'")
    config = DockerConfig(helpers={"r.example": "fake"})
    assert config.credentials("r.example") == Credentials(username="ann", password=SECRET)
    assert (tmp_path / "asked").read_text() == "r.example"
    assert config.credentials("other.example") is None


def test_the_default_helper_answers_with_an_identity_token(programs: Path) -> None:
    helper(programs, "store", 'cat >/dev/null; echo \'{"Username": "<token>", "Secret": "identity"}\'')
    found = DockerConfig(default_helper="store").credentials("r.example")
    assert found == Credentials(identity_token="identity")


def test_a_helper_that_knows_nothing_leaves_the_rest_of_the_configuration(programs: Path) -> None:
    helper(programs, "store", "cat >/dev/null; echo 'credentials not found in native keychain'; exit 1")
    auths = {"r.example": {"username": "ann", "password": "b"}}
    config = DockerConfig(default_helper="store", auths=auths)
    assert config.credentials("r.example") == Credentials(username="ann", password="b")
    assert config.credentials("other.example") is None


@pytest.mark.parametrize(
    ("script", "found"),
    [
        pytest.param(f"echo {SECRET}; echo {SECRET} >&2; exit 3", "exit code 3", id="it fails"),
        pytest.param(f"echo {SECRET}", "no JSON with Username and Secret", id="it prints no JSON"),
        pytest.param(f"echo '[\"{SECRET}\"]'", "no JSON with Username and Secret", id="it prints other JSON"),
    ],
)
def test_a_broken_helper_is_named_but_not_quoted(programs: Path, script: str, found: str) -> None:
    helper(programs, "broken", f"cat >/dev/null; {script}")
    with pytest.raises(MachineError) as caught:
        DockerConfig(helpers={"r.example": "broken"}).credentials("r.example")
    assert caught.value.reference == "credential-helper-failed"
    assert caught.value.findings[0].found == found
    assert caught.value.findings[0].where == "docker-credential-broken get, for r.example"
    assert SECRET not in told(caught.value)


def test_a_helper_that_is_not_installed_is_named(programs: Path) -> None:
    with pytest.raises(MachineError) as caught:
        DockerConfig(default_helper="absent").credentials("r.example")
    assert caught.value.reference == "credential-helper-missing"
    assert caught.value.findings[0].expected == "docker-credential-absent on PATH"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"{", "JSON", id="broken JSON"),
        pytest.param(b"[]", "an object", id="a list"),
        pytest.param(b'{"auths": [1]}', "auths, credHelpers: objects", id="auths as a list"),
        pytest.param(b'{"credsStore": "../../bin/x"}', "helper names", id="a helper that is a path"),
        pytest.param(b'{"credHelpers": {"r": "/bin/x"}}', "helper names", id="a helper by absolute path"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused_without_showing_it(
    data: bytes, expected: str
) -> None:
    with pytest.raises(MalformedError) as caught:
        DockerConfig.parse(data, where="config.json")
    assert caught.value.reference == "bad-docker-config"
    assert caught.value.findings[0].expected.startswith(expected)
    assert "not shown" in caught.value.findings[0].found


def test_an_auth_entry_that_is_no_base64_is_refused_without_showing_it() -> None:
    with pytest.raises(MalformedError) as caught:
        DockerConfig(auths={"r.example": {"auth": f"!{SECRET}!"}}).credentials("r.example")
    assert caught.value.reference == "bad-docker-config"
    assert caught.value.findings[0].where == "auths of r.example"
    assert SECRET not in told(caught.value)
