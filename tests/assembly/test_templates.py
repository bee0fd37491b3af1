"""The specs that init writes, against what the engines of their versions understand."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from bundler.assembly.templates import PROFILES, template
from bundler.core.specs.spec_text import parse_spec
from bundler.engines.flags import argument_findings, find_table
from bundler.errors import UsageError


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_uses_an_engine_version_and_flags_that_are_known(profile: str) -> None:
    spec = parse_spec(template(profile).encode(), profile)
    engines = {engine.identifier: engine for engine in spec.engines}
    for launch in spec.launch:
        engine = engines[launch.engine]
        requirement = Requirement(engine.requirement)
        version = str(requirement.specifier).removeprefix("==")
        table = find_table(engine.name, requirement.name, version)
        assert argument_findings(table, launch.arguments) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_says_which_machine_it_is_sized_for(profile: str) -> None:
    assert parse_spec(template(profile).encode(), profile).node is not None


def test_the_assessed_commit_is_pinned_in_the_spec_itself() -> None:
    for profile in ("kimi-k2-vllm", "kimi-k2-sglang"):
        model = parse_spec(template(profile).encode(), profile).models[0]
        assert (model.repo, model.revision) == (
            "moonshotai/Kimi-K2.7-Code",
            "74797c9c62378b951a1f6fcf5c4631024e9b8bef",
        )


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        template("../secrets")
    assert "kimi-k2-vllm" in caught.value.findings[0].expected
