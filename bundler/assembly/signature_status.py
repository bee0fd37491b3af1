"""What is known of an artifact's upstream signature: the manifest's `source.upstreamSignature`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

State = Literal["verified", "unverified-present", "none-offered"]
STATES: tuple[State, ...] = ("none-offered", "unverified-present", "verified")
"""From the weakest to the strongest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of one artifact's upstream signature."""

    state: State
    checked: str = ""
    """What was compared with what, in words."""
    signer: Mapping[str, str] = field(default_factory=dict)
    """Who signed: `key` with a fingerprint, or the members of an identity. Empty unless verified."""
    evidence: tuple[str, ...] = ()
    """Bundle paths of what upstream offered and of what it was checked with."""
    untrusted_claim: str = ""
    """Whom the evidence names, unchecked."""

    def to_json(self) -> dict[str, Any]:
        """The manifest's form; members without content are left out."""
        value: dict[str, Any] = {"state": self.state, "checked": self.checked}
        members = {
            "signer": dict(self.signer),
            "evidence": list(self.evidence),
            "untrustedClaim": self.untrusted_claim,
        }
        return {**value, **{name: member for name, member in members.items() if member}}


NONE_OFFERED = Standing(state="none-offered", checked="nothing: upstream offers no signature")


def merged(found: Sequence[Standing], *, weakest: bool) -> Standing:
    """One standing for several: the weakest or the strongest, with the evidence of all."""
    chosen = (min if weakest else max)(found, key=lambda one: STATES.index(one.state))
    evidence = tuple(sorted({path for one in found for path in one.evidence}))
    return replace(chosen, evidence=evidence)
