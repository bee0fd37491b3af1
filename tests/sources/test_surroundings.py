"""A company's certificate authority, proxies and the environment that libraries and uv find."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import requests

from bundler.errors import MachineError, NetworkError
from bundler.sources import surroundings
from bundler.sources.http import HttpByteSource, bearer, session
from bundler.sources.surroundings import certificate_store, connected, connected_environment
from bundler.sources.wheels.uv import UvFailure, resolver_environment, run_uv
from tests.servers.http import FileServer
from tests.servers.tls import tls_server


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*surroundings.CA_VARIABLES, "SSL_CERT_DIR", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def _fetched(url: str) -> bytes:
    with session() as asking, HttpByteSource(url=f"{url}/file", session=asking).open(0) as body:
        return b"".join(body)


def test_an_unknown_authority_is_refused_and_the_variable_named(tmp_path: Path) -> None:
    with tls_server(tmp_path) as (url, _, asked), pytest.raises(NetworkError) as caught:
        _fetched(url)
    assert caught.value.reference == "tls-refused"
    assert "SSL_CERT_FILE" in caught.value.findings[0].hint
    assert asked == []


@pytest.mark.parametrize("name", surroundings.CA_VARIABLES)
def test_an_authority_in_any_variable_works_for_every_library(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server(tmp_path) as (url, authority, _):
        monkeypatch.setenv(name, str(authority))
        assert _fetched(url) == b"hello"
        with connected():
            assert requests.get(f"{url}/file", timeout=5).content == b"hello"
            _assert_uv_reaches(url, tmp_path)


def test_an_authority_in_the_systems_store_works_for_every_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server(tmp_path) as (url, authority, asked):
        _replace_store(monkeypatch, authority)
        assert _fetched(url) == b"hello"
        with connected():
            assert requests.get(f"{url}/file", timeout=5).content == b"hello"
            _assert_uv_reaches(url, tmp_path)
        assert any("some-project" in target for target in asked)


def _replace_store(monkeypatch: pytest.MonkeyPatch, authority: Path) -> None:
    monkeypatch.setattr(surroundings, "_SYSTEM_STORES", (str(authority),))
    real = surroundings.ssl.get_default_verify_paths()  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "bundler.sources.surroundings.ssl.get_default_verify_paths",
        lambda: real._replace(openssl_cafile="/nonexistent"),
    )


def _assert_uv_reaches(url: str, folder: Path) -> None:
    """uv believes the certificate: it says that the project is missing, and nothing of TLS."""
    (folder / "wanted.in").write_text("some-project\n")
    arguments = ["pip", "compile", "wanted.in", "--no-config", "--python", sys.executable]
    arguments += ["--default-index", f"{url}/simple", "--no-progress", "--color", "never", "--no-cache"]
    with pytest.raises(UvFailure) as caught:
        run_uv(arguments, folder, resolver_environment(os.environ))
    assert "not found in the package registry" in caught.value.whole
    assert "certificate" not in caught.value.whole.lower()


@pytest.mark.parametrize("name", [*surroundings.CA_VARIABLES, "SSL_CERT_DIR"])
def test_a_variable_that_names_nothing_is_named(name: str) -> None:
    with pytest.raises(MachineError) as caught:
        certificate_store({name: "/nonexistent/company.pem"})
    finding = caught.value.findings[0]
    assert (finding.reference, finding.where) == ("no-ca-file", name)
    assert f"unset {name}" in finding.hint


def test_a_host_without_a_store_keeps_what_the_library_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_store(monkeypatch, Path("/nonexistent"))
    assert certificate_store({}) is None


def test_the_environment_is_put_back_afterwards() -> None:
    before = dict(os.environ)
    with connected():
        assert os.environ["DO_NOT_TRACK"] == "1"
    assert dict(os.environ) == before


def test_proxies_are_told_to_leave_this_machine_alone() -> None:
    added = connected_environment({"NO_PROXY": "intranet.example, localhost"})
    assert added["NO_PROXY"] == "intranet.example,localhost,127.0.0.1,::1"
    assert added["no_proxy"] == "localhost,127.0.0.1,::1"
    assert "NO_PROXY" not in connected_environment({"NO_PROXY": "*"})


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_never_sees_what_is_meant_for_loopback(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileServer({"/file": b"hello"}) as hub, FileServer() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        source = HttpByteSource(
            url=f"{hub.url}/file", session=session(), headers=bearer(lambda: "secret", hub.url)
        )
        with source.open(0) as body:
            assert b"".join(body) == b"hello"
        assert proxy.requests == []


def test_a_proxy_is_used_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer({"http://hub.example/file": b"hello"}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert _fetched("http://hub.example") == b"hello"
