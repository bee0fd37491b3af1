"""Image references read as docker reads them, and nothing that could become a path or another host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.core.specs.image_reference import ImageReference
from bundler.errors import MalformedError

DIGEST = "sha256:" + "0f" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        pytest.param("ubuntu", "docker.io/library/ubuntu:latest", id="a bare name is Docker Hub's library"),
        pytest.param(
            "vllm/vllm-openai:v0.19.1", "docker.io/vllm/vllm-openai:v0.19.1", id="two names are Docker Hub"
        ),
        pytest.param("index.docker.io/a/b", "docker.io/a/b:latest", id="Docker Hub's old name"),
        pytest.param("localhost/app", "localhost/app:latest", id="localhost is a registry"),
        pytest.param("localhost:5000/app:1", "localhost:5000/app:1", id="a port makes a registry"),
        pytest.param("[::1]:5000/app", "[::1]:5000/app:latest", id="an IPv6 address"),
        pytest.param("r.example/a/b/c:v", "r.example/a/b/c:v", id="deep repositories"),
        pytest.param(f"r.example/a@{DIGEST}", f"r.example/a@{DIGEST}", id="a digest needs no tag"),
        pytest.param(f"r.example/a:t@{DIGEST}", f"r.example/a:t@{DIGEST}", id="tag and digest together"),
        pytest.param("a__b/c-d.e", "docker.io/a__b/c-d.e:latest", id="separators inside names"),
    ],
)
def test_a_reference_is_completed_as_docker_does(text: str, full: str) -> None:
    assert str(ImageReference.parse(text)) == full


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("", "repository", id="nothing"),
        pytest.param("r.example/../etc", "repository", id="a path that goes up"),
        pytest.param("r.example/App", "repository", id="capital letters"),
        pytest.param("r.example/a:", "tag is empty", id="an empty tag"),
        pytest.param("r.example/a:-x", "tag", id="a tag that begins with a dash"),
        pytest.param("r.example/a:t/../../x", "tag", id="a tag that is a path"),
        pytest.param("r.example/a@sha256:../../x", "digest", id="a digest that is a path"),
        pytest.param("r.example/a@sha256:" + "F" * 64, "digest", id="a digest in capitals"),
        pytest.param("r.example/a@sha512:" + "f" * 128, "digest", id="another algorithm"),
        pytest.param("user@r.example/a", "digest", id="a user name"),
        pytest.param("https://r.example/a", "", id="a URL"),
        pytest.param("r.example/" + "a" * 256, "255", id="a repository that is too long"),
        pytest.param("r.example/a\n", "repository", id="a line break"),
        pytest.param("r.example:99999999/a", "registry", id="no port number"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_rule(text: str, fault: str) -> None:
    with pytest.raises(MalformedError) as caught:
        ImageReference.parse(text)
    assert caught.value.reference == "bad-image-reference"
    assert fault in caught.value.findings[0].what
    assert caught.value.findings[0].hint.startswith("write for example")


_NAME = st.from_regex(r"[a-z0-9]+((\.|_|__|-)[a-z0-9]+)*", fullmatch=True).filter(lambda text: len(text) < 60)


@given(
    registry=st.sampled_from(["docker.io", "r.example", "127.0.0.1:5000", "[::1]:5000", "localhost"]),
    names=st.lists(_NAME, min_size=2, max_size=3),
    tag=st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.none() | st.just(DIGEST),
)
def test_the_text_form_round_trips(
    registry: str, names: list[str], tag: str | None, digest: str | None
) -> None:
    tag = tag or (None if digest else "latest")
    reference = ImageReference(registry, "/".join(names), tag, digest)
    assert ImageReference.parse(str(reference)) == reference


@given(st.text(max_size=80))
def test_any_text_is_either_read_the_same_twice_or_refused(text: str) -> None:
    try:
        reference = ImageReference.parse(text)
    except MalformedError:
        return
    assert ImageReference.parse(str(reference)) == reference
