"""Package indexes as the field runs them, over HTTP."""

from __future__ import annotations

import pytest

from bundler.errors import SealiftError
from bundler.sources.http import session
from bundler.sources.wheels.package_index import PackageIndex
from tests.servers.http import Fault, FileServer
from tests.servers.index_habits import HABITS, IndexHabit


def served(habit: IndexHabit, server: FileServer) -> None:
    """Puts the habit on."""
    server.files = {path: text.encode() for path, text in habit.pages.items()}
    for path in {*habit.headers, *habit.statuses, *habit.redirects}:
        target = habit.redirects.get(path)
        server.always[path] = Fault(
            headers=dict(habit.headers.get(path, {})),
            status=habit.statuses.get(path),
            redirect=server.url + target if target else None,
        )


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name)
def test_an_index_is_read_whole_or_the_reason_is_told(habit: IndexHabit) -> None:
    with FileServer() as server, session() as http:
        served(habit, server)
        index = PackageIndex(f"{server.url}/simple", name="i", session=http)
        if habit.error:
            with pytest.raises(SealiftError) as caught:
                index.files("demo", patient=False)
            assert caught.value.reference == habit.error
            return
        found = index.files("demo", patient=False)

        wanted = [(name, server.url + path, sha256) for name, path, sha256 in habit.files]
        assert [(item.filename, item.url, item.sha256) for item in found] == wanted
        assert [item.filename for item in found if item.yanked] == list(habit.yanked)
