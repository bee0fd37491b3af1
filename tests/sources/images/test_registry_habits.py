"""The image source against every habit of registries in the field: the right lock, or the right error."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

import pytest

from bundler.core.specs.lock import LockedImage, LockedReferrer
from bundler.core.specs.spec import ImageSpec
from bundler.errors import SealiftError
from bundler.sources.http import Timeouts
from bundler.sources.images.images import resolve_image
from bundler.sources.images.registry import RegistryClient
from bundler.sources.images.registry_auth import DockerConfig
from bundler.sources.retry import RetryPolicy
from tests.servers.registry import FaultyRegistry
from tests.servers.registry_habits import HABITS, USER, Habit, seed


def lock(registry: FaultyRegistry, habit: Habit) -> LockedImage:
    login = {registry.host: {"auth": base64.b64encode(USER.encode()).decode()}} if habit.login else {}
    client = RegistryClient(
        registry.host,
        plain_http=True,
        config=DockerConfig(auths=login),
        retries=RetryPolicy(tries=2, first=0.01, jitter=lambda: 0.0),
        timeouts=Timeouts(connect=5, stall=5),
    )
    spec = ImageSpec(
        reference=f"{registry.host}/demo/app:v1", platforms=tuple(habit.platforms), plain_http=True
    )
    return resolve_image(spec, client=client)


def kind(referrer: LockedReferrer) -> str:
    if referrer.tag is None:
        return "referrer"
    return "signature" if referrer.tag.endswith(".sig") else "fallback"


@pytest.mark.parametrize("habit", [pytest.param(one, id=one.name) for one in HABITS])
def test_a_registry_with_this_habit_gives_the_right_lock(tmp_path: Path, habit: Habit) -> None:
    with FaultyRegistry(tmp_path / "registry") as registry:
        habit.apply(registry, seed(registry))
        if habit.error:
            with pytest.raises(SealiftError) as caught:
                lock(registry, habit)
            assert caught.value.reference == habit.error
            return
        image = lock(registry, habit)
    assert [one.platform for one in image.platforms] == list(habit.platforms)
    # One artifact under two names is one referrer and one tag.
    assert Counter(map(kind, image.referrers)) == Counter(habit.companions)
