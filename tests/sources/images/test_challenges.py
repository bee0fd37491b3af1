"""`WWW-Authenticate`: every challenge is found, whatever comes before, between or after."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bundler.sources.images.challenges import parse_challenges

BEARER = 'Bearer realm="https://a/t?x=1,2",service="s, t",scope="repository:a/b:pull,push"'
MEANT = ("bearer", {"realm": "https://a/t?x=1,2", "service": "s, t", "scope": "repository:a/b:pull,push"})


@pytest.mark.parametrize(
    ("header", "found"),
    [
        pytest.param(BEARER, [MEANT], id="one scheme, commas in quotes"),
        pytest.param('Basic realm="r", ' + BEARER, [("basic", {"realm": "r"}), MEANT], id="Basic first"),
        pytest.param(BEARER + ', Basic realm="r"', [MEANT, ("basic", {"realm": "r"})], id="Bearer first"),
        pytest.param("Basic, " + BEARER, [("basic", {}), MEANT], id="a scheme without parameters"),
        pytest.param(
            "Negotiate oYG2MIGzoAMK==, " + BEARER, [("negotiate", {}), MEANT], id="a token68 with padding"
        ),
        pytest.param("Negotiate abc, " + BEARER, [("negotiate", {}), MEANT], id="a token68 without padding"),
        pytest.param(
            'Newauth realm="apps", type=1, title="Login to \\"apps\\", Basic realm=x", Basic realm="simple"',
            [
                ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps", Basic realm=x'}),
                ("basic", {"realm": "simple"}),
            ],
            id="the example of the standard, with a trap",
        ),
        pytest.param(
            "bearer REALM = https://a/t , Scope=x",
            [("bearer", {"realm": "https://a/t", "scope": "x"})],
            id="case and spaces",
        ),
        pytest.param(", ,Basic realm=x,,", [("basic", {"realm": "x"})], id="empty elements"),
        pytest.param('@@ "x, y", Basic realm=x', [("basic", {"realm": "x"})], id="rubbish before"),
        pytest.param('Basic realm="x', [("basic", {})], id="a quote without end"),
        pytest.param("realm=x", [], id="a parameter without scheme"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_challenges_are_read_in_order(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges(header)] == found


@given(some.text(max_size=80))
def test_a_bearer_challenge_is_found_after_any_closed_text(before: str) -> None:
    prefix = before.replace('"', "").replace("\\", "")
    assert MEANT in [(one.scheme, dict(one.parameters)) for one in parse_challenges(f"{prefix},{BEARER}")]
