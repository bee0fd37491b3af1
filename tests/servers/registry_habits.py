"""What registries in the field really answer: one row a habit, driven over the image source.

Each row puts an image `demo/app:v1` for linux/amd64 with one referrer and one cosign signature tag into a
registry, gives it a habit, and says what a lock must then hold, or which error must end it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bundler.content.oci import OCI_INDEX
from tests.servers.registry import FaultyHandler, FaultyRegistry

USER = "ann:pa55"
BASIC = "Basic " + base64.b64encode(USER.encode()).decode()
TWO = ("referrer", "signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """One way of a registry."""

    name: str
    apply: Callable[[FaultyRegistry, dict[str, Any]], None]
    companions: Sequence[str] = TWO
    """What must be locked beside the image: `referrer`, `signature`, `fallback`."""
    error: str = ""
    """The reference that must end the lock instead."""
    login: bool = False
    platforms: Sequence[str] = field(default=("linux/amd64",))


def seed(registry: FaultyRegistry) -> dict[str, Any]:
    """The image, its referrer and its signature tag; the image's descriptor."""
    image = registry.add_image("demo/app", "v1")
    registry.add_artifact("demo/app", image)
    # As cosign 2 leaves it: found by its tag alone.
    signature = {**registry.image_manifest(text=b"signature"), "layers": []}
    registry.add_manifest("demo/app", signature, image["digest"].replace(":", "-") + ".sig")
    return image


# --- how habits are put on ---


def referrers_answer(
    status: int, body: bytes = b"{}", kind: str = "application/json", **headers: str
) -> Callable[[FaultyRegistry, dict[str, Any]], None]:
    """The referrers path always answers this."""

    def apply(registry: FaultyRegistry, _image: dict[str, Any]) -> None:
        def hook(request: FaultyHandler) -> bool:
            if "/referrers/" not in request.path:
                return False
            request.send_bytes(status, body, {"Content-Type": kind, **headers})
            return True

        registry.hook = hook

    return apply


def paged(link: str) -> Callable[[FaultyRegistry, dict[str, Any]], None]:
    """The referrers of the image come on two pages, and the first has this Link header."""

    def apply(registry: FaultyRegistry, image: dict[str, Any]) -> None:
        second = registry.add_artifact("demo/app", image, text=b"second")
        first = registry.add_artifact("demo/app", image, text=b"first")

        def hook(request: FaultyHandler) -> bool:
            if f"/referrers/{image['digest']}" not in request.path:
                return False
            rest = "last=" in request.path
            headers = {} if rest else {"Link": link.format(path=request.path, host=registry.host)}
            page = index_bytes([second if rest else first])
            request.send_bytes(200, page, {"Content-Type": OCI_INDEX, **headers})
            return True

        registry.hook = hook

    return apply


def index_bytes(manifests: list[dict[str, Any]] | None, **more: Any) -> bytes:
    """An OCI index over these descriptors."""
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **more}
    return json.dumps(value).encode()


def challenged(
    *headers: str, takes: str = "Bearer tok", token: bytes = b'{"token": "tok"}', asked: str = ""
) -> Callable[[FaultyRegistry, dict[str, Any]], None]:
    """Every request is challenged with these headers until it carries `takes`.

    The token service wants `asked` in the query of its address.
    """

    def apply(registry: FaultyRegistry, _image: dict[str, Any]) -> None:
        def hook(request: FaultyHandler) -> bool:
            if request.path.startswith("/token"):
                request.send_bytes(200 if asked in request.path else 400, token, {})
                return True
            if request.headers.get("Authorization", "") == takes:
                return False
            offers = [one.format(realm=f"{registry.url}/token") for one in headers]
            request.send_bytes(401, b"{}", {"WWW-Authenticate": offers})  # type: ignore[dict-item]
            return True

        registry.hook = hook

    return apply


def aliased(registry: FaultyRegistry, image: dict[str, Any]) -> None:
    """The tag `sha256-<hex>` is the digest, as with GitLab; there is no referrers API."""
    registry.no_referrers_api = True
    for digest in list(registry.repository("demo/app").manifests):
        registry.repository("demo/app").tags[digest.replace(":", "-")] = digest
    assert image


def aliased_index(registry: FaultyRegistry, image: dict[str, Any]) -> None:
    """As `aliased`, for an index with a second platform."""
    other = registry.add_image("demo/app", platform="linux/arm64", text=b"other")
    registry.add_index("demo/app", "v1", [image, other])
    aliased(registry, image)


def fallback_tag(registry: FaultyRegistry, image: dict[str, Any]) -> None:
    """No API, but an index under the tag of the distribution specification."""
    registry.no_referrers_api = True
    artifact = registry.add_artifact("demo/app", image)
    registry.add_index("demo/app", image["digest"].replace(":", "-"), [artifact])


def manifests_as(kind: str) -> Callable[[FaultyRegistry, dict[str, Any]], None]:
    """All manifests are announced with this Content-Type."""

    def apply(registry: FaultyRegistry, _image: dict[str, Any]) -> None:
        registry.rewrite = lambda request, headers: (
            {**headers, "Content-Type": kind} if "/manifests/" in request.path else headers
        )

    return apply


def headers_on_everything(**headers: str) -> Callable[[FaultyRegistry, dict[str, Any]], None]:
    """Every answer carries these headers; an empty value takes one away."""

    def apply(registry: FaultyRegistry, _image: dict[str, Any]) -> None:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        registry.rewrite = lambda _request, old: {
            name: value for name, value in {**old, **more}.items() if value
        }

    return apply


def listed(*change: str, entries: Callable[[FaultyRegistry, dict[str, Any]], list[dict[str, Any]]]) -> Any:
    """The tag v1 is an index over `entries`; members named in `change` are taken from the image's entry."""

    def apply(registry: FaultyRegistry, image: dict[str, Any]) -> None:
        own = {name: value for name, value in image.items() if name not in change}
        registry.add_index("demo/app", "v1", entries(registry, own))

    return apply


def _with_artifacts(registry: FaultyRegistry, image: dict[str, Any]) -> list[dict[str, Any]]:
    said = registry.add_artifact("demo/app", image, text=b"said")
    silent = {name: value for name, value in said.items() if name != "artifactType"}
    unknown = {**registry.add_artifact("demo/app", image, text=b"unknown")}
    unknown["platform"] = {"os": "unknown", "architecture": "unknown"}
    dressed = {**silent, "platform": {"os": "linux", "architecture": "amd64"}}
    return [unknown, dressed, silent, image]


def nulls(registry: FaultyRegistry, _image: dict[str, Any]) -> None:
    """Absent members are written as `null`, as Go does."""
    manifest = registry.image_manifest()
    manifest |= {"subject": None, "annotations": None, "artifactType": None, "manifests": None}
    manifest["config"] |= {"annotations": None, "platform": None, "urls": None}
    entry = registry.add_manifest("demo/app", manifest)
    entry |= {"annotations": None, "artifactType": None, "platform": {"os": "linux", "architecture": "amd64"}}
    entry["platform"]["variant"] = None
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry], "layers": None}
    registry.add_manifest("demo/app", {**index, "subject": None, "annotations": None}, "v1")
    referrers_answer(200, index_bytes(None), OCI_INDEX)(registry, entry)


def no_layers(registry: FaultyRegistry, _image: dict[str, Any]) -> None:
    """An image without any layer, its lists written as `null`."""
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": None}}
    manifest = registry.image_manifest()
    described = registry.add_blob(json.dumps(config).encode(), manifest["config"]["mediaType"])
    registry.add_manifest("demo/app", {**manifest, "config": described, "layers": None}, "v1")


def layer_of_type(kind: str) -> Callable[[FaultyRegistry, dict[str, Any]], None]:
    """The image's layer is announced as something else."""

    def apply(registry: FaultyRegistry, _image: dict[str, Any]) -> None:
        manifest = registry.image_manifest()
        manifest["layers"][0]["mediaType"] = kind
        registry.add_manifest("demo/app", manifest, "v1")

    return apply


BEARER = 'Bearer realm="{realm}",service="a, b",scope="repository:demo/app:pull"'
DONE = ("signature",)
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"

NOT_OFFERED = tuple(
    Habit(name=f"referrers path answers {status}", apply=referrers_answer(status), companions=DONE)
    for status in (400, 404, 405, 406, 410, 415, 422, 501)
)
FAILED = tuple(
    Habit(name=f"referrers path answers {status}", apply=referrers_answer(status), error=reference)
    for status, reference in (
        (401, "registry-unauthorized"),
        (403, "registry-forbidden"),
        (429, "server-busy"),
        (500, "server-busy"),
        (502, "server-busy"),
        (503, "server-busy"),
    )
)
LINKS = tuple(
    Habit(name=f"next page by Link: {form}", apply=paged(form), companions=("referrer", *TWO))
    for form in (
        '<{path}?last=x>; rel="next"',
        "<{path}?last=x>;rel=next",
        '<{path}?last=x>; title="a, b; c"; rel="prev next"',
        '</v2/>; rel="index", <{path}?last=x>; REL=NEXT',
        "<?last=x>; rel=next",
        "<http://{host}{path}?last=x,y;z>; rel=next",
    )
) + tuple(
    Habit(name=f"no next page by Link: {form}", apply=paged(form), error="bad-link")
    for form in (
        "<{path}?last=x",
        "<{path}?last=x>",
        "{path}?last=x; rel=next",
        "@127.0.0.1:1/x",
        "<@127.0.0.1:1/x>; rel=next",
        "<http://[::1>; rel=next",
        "<http://127.0.0.1:1{path}>; rel=next",
        "<file://{path}>; rel=next",
    )
)
CHALLENGES = (
    Habit(name="Bearer", apply=challenged(BEARER)),
    Habit(name="Basic, then Bearer in two headers", apply=challenged('Basic realm="r"', BEARER)),
    Habit(name="Bearer, then Basic in two headers", apply=challenged(BEARER, 'Basic realm="r"')),
    Habit(name="both in one header", apply=challenged('Basic realm="r", ' + BEARER)),
    Habit(name="Negotiate with a token68 before Bearer", apply=challenged("Negotiate YII==, " + BEARER)),
    Habit(name="both, and only Basic is taken", apply=challenged(BEARER, "Basic", takes=BASIC), login=True),
    Habit(name="only Basic", apply=challenged("Basic realm=r", takes=BASIC), login=True),
    Habit(name="only Basic, no login", apply=challenged("Basic realm=r"), error="registry-unauthorized"),
    Habit(name="a scheme nobody knows", apply=challenged("Digest realm=r"), error="registry-unauthorized"),
    Habit(name="no challenge at all", apply=challenged(), error="registry-unauthorized"),
    Habit(name="access_token", apply=challenged(BEARER, token=b'{"access_token": "tok", "token": ""}')),
    Habit(
        name="the scope of the challenge",
        apply=challenged(
            'Bearer realm="{realm}",scope="repository:mirror/demo/app:pull"',
            asked="scope=repository%3Amirror%2Fdemo%2Fapp%3Apull",
        ),
    ),
    Habit(
        name="two scopes",
        apply=challenged('Bearer realm="{realm}",scope="a:b:pull c:d:pull"', asked="b%3Apull&scope=c%3Ad"),
    ),
    Habit(
        name="a scope inside the realm, no service",
        apply=challenged('Bearer realm="{realm}?scope=a:b:pull,push"', asked="/token?scope=a:b:pull,push"),
    ),
    Habit(
        name="no scope at all",
        apply=challenged('Bearer realm="{realm}"', asked="scope=repository%3Ademo%2Fapp%3Apull"),
    ),
    Habit(
        name="a realm without end", apply=challenged('Bearer realm="http://[::1"'), error="bad-token-realm"
    ),
    Habit(
        name="a realm with a user",
        apply=challenged('Bearer realm="https://a@[::1]/"'),
        error="bad-token-realm",
    ),
    Habit(
        name="a realm that is a file",
        apply=challenged('Bearer realm="file:///etc/passwd"'),
        error="insecure-token-realm",
    ),
)
ENTRIES = (
    Habit(
        name="an entry without platform",
        apply=listed("platform", entries=lambda _, image: [image]),
    ),
    Habit(
        name="an entry without platform for another machine",
        apply=listed(
            "platform",
            entries=lambda registry, _: [
                {
                    name: value
                    for name, value in registry.add_image("demo/app", platform="linux/arm64").items()
                    if name != "platform"
                }
            ],
        ),
        error="platform-missing",
    ),
    Habit(
        name="artifacts beside the image",
        apply=listed(entries=_with_artifacts),
        companions=(*TWO, "referrer", "referrer"),
    ),
    Habit(name="null in place of what is absent", apply=nulls, companions=()),
    Habit(name="null in place of every list", apply=no_layers, companions=()),
)
MEDIA = (
    Habit(name="Content-Type application/json", apply=manifests_as("application/json")),
    Habit(name="no Content-Type", apply=manifests_as("")),
    Habit(name="Content-Type in capitals", apply=manifests_as("Application/vnd.OCI.image.manifest.v1+JSON")),
    Habit(name="schema 1", apply=manifests_as(SCHEMA_1), error="unsupported-manifest"),
    Habit(name="a web page", apply=manifests_as("text/html"), error="unsupported-manifest"),
    Habit(name="no Docker-Content-Digest", apply=headers_on_everything(Docker_Content_Digest="")),
    Habit(
        name="Docker-Content-Digest of another algorithm",
        apply=headers_on_everything(Docker_Content_Digest="sha512:" + "0" * 128),
    ),
    Habit(
        name="Docker-Content-Digest of other bytes",
        apply=headers_on_everything(Docker_Content_Digest="sha256:" + "0" * 64),
        error="manifest-digest-mismatch",
    ),
    Habit(
        name="rate limit used up, status 200",
        apply=headers_on_everything(RateLimit_Limit="100;w=21600", RateLimit_Remaining="0;w=21600"),
    ),
    *(
        Habit(name=f"a layer of type {kind}", apply=layer_of_type(kind), error="oci-media-type")
        for kind in (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.erofs.layer.v1",
            "application/vnd.oci.image.layer.v1.tar+xz",
            "application/vnd.in-toto+json",
        )
    ),
)
LISTS = (
    *(
        Habit(name=name, apply=answer, companions=DONE)
        for name, answer in (
            ("an empty list of referrers", referrers_answer(200, index_bytes([]), OCI_INDEX)),
            ("null for an empty list", referrers_answer(200, index_bytes(None), OCI_INDEX)),
            ("an index called JSON", referrers_answer(200, index_bytes(None))),
            ("an empty object", referrers_answer(200)),
            ("a web page for referrers", referrers_answer(200, b"<html>", "text/html")),
        )
    ),
    Habit(
        name="an index without a list",
        apply=referrers_answer(200, b"{}", OCI_INDEX),
        error="bad-referrers",
    ),
    Habit(
        name="a filter nobody asked for",
        apply=referrers_answer(200, index_bytes([]), OCI_INDEX, **{"OCI-Filters-Applied": "artifactType"}),
        error="bad-referrers",
    ),
    Habit(name="the fallback tag", apply=fallback_tag, companions=("fallback", *TWO)),
    Habit(name="the fallback tag is the image", apply=aliased, companions=DONE),
    Habit(name="the fallback tag is the index", apply=aliased_index, companions=DONE),
)
HABITS = (*NOT_OFFERED, *FAILED, *LINKS, *CHALLENGES, *ENTRIES, *MEDIA, *LISTS)
