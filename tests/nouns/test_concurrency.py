"""A randomized, concurrent check: no lost update, no two holders of a lock, no fence that goes backwards.

With STACKSTATE_TEST_LONG=1 it goes on for two minutes and tens of thousands of calls. A failure names its seed.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest

from celery_stackstate.stores import open_store
from tests.checker import Attack, Journal, Story, attack_with_faults, check, state_over

LONG = bool(os.environ.get("STACKSTATE_TEST_LONG"))
SECONDS = 120 if LONG else 8


@pytest.fixture(params=["sqlite", "redis", "postgresql", "mysql"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that several processes share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/l.sqlite3"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def test_state_adds_up_though_processes_are_paused_and_killed(shared_url: str, tmp_path: Path) -> None:
    attack = Attack(shared_url, uuid4().hex, tmp_path, SECONDS)
    faults = attack_with_faults(attack)
    story = Story(tmp_path)
    print(f"seed {attack.seed}: {story.calls} calls, {faults}, {len(story.held)} sections")
    assert story.calls > (10_000 if LONG else 500)
    assert min(faults.values()) > 0
    assert len(story.held) > 50
    check(story, attack.state("afterwards"))


@pytest.mark.parametrize("lie", ["increment", "update", "overlap", "stale write"])
def test_the_check_can_fail(tmp_path: Path, lie: str) -> None:
    """A store that told a lie would be found out."""
    state = state_over(open_store("memory://"), "r")
    with (tmp_path / "r.journal").open("w") as file:
        journal = Journal(file)
        if lie == "increment":
            journal.call("increment", lambda: state.increment("count:a"), key="a")
            state.delete("count:a")
        elif lie == "update":
            journal.call("update", lambda: None, key="a", tag="t")
        elif lie == "overlap":
            for name in ("a", "b"):
                with (tmp_path / f"{name}.journal").open("w") as other:
                    other.write(f'{{"what": "hold", "at": 1.0, "name": "a", "fence": {ord(name)}}}\n')
                    other.write('{"what": "begin", "at": 2.0, "call": "release", "name": "a"}\n')
                    other.write('{"what": "done", "at": 2.0, "call": "release", "name": "a"}\n')
        else:
            journal.call("guarded", lambda: 1, name="a", fence=2)
            journal.call("guarded", lambda: 2, name="a", fence=1)
    with pytest.raises(AssertionError, match=r"lost|at once|behind"):
        check(Story(tmp_path), state)
