"""`sealift trust`: make, read and replace trust policies, and ask whether one is still current."""

from __future__ import annotations

import click

from bundler.cli import trust_freshness, trust_policy, trust_rotation, trust_state


@click.group()
def command() -> None:
    """Make and read trust policies: who may say what about a bundle."""


for verb in (
    trust_policy.init,
    trust_policy.show,
    trust_rotation.propose,
    trust_rotation.approve,
    trust_rotation.apply,
    trust_freshness.challenge,
    trust_freshness.answer,
    trust_freshness.respond,
    trust_state.reset_time,
):
    command.add_command(verb)
