"""A randomized check of state under fire: processes that use it while others are paused and killed, and their story.

Each process writes what it is about to do, and then what came of it, into a journal of its own. Afterwards the
journals are read together with the store. A call whose answer is missing (the process was killed in it) may have been
applied or not; everything else must add up.

The property behind the locks: a release that succeeded proves that the lock was held without a break since it was
acquired, whatever the process was put through in between. So no two such spans may overlap in time, and writes that
a lock guarded must have been accepted in the order of their fences.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from celery_stackstate.errors import CounterRange, LockLost, StoreUnavailable, VersionConflict
from celery_stackstate.holding import HeldLocks, LockOwner
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from tests.waiting import wait_for

SPAWN = multiprocessing.get_context("spawn")
KEYS = ("a", "b")
ROUNDS = 40
LOCK_TTL = 0.4
CEILING = 100


@dataclass(frozen=True)
class Attack:
    """What is done to a store: so many processes use it for so many seconds."""

    url: str
    prefix: str
    folder: Path
    seconds: float
    processes: int = 4
    seed: int = field(default_factory=lambda: random.randrange(2**32))

    def state(self, name: str) -> State:
        """Return the state as one execution of the run `name` sees it."""
        return state_over(open_store(self.url, prefix=self.prefix, timeout=10), name)


def state_over(store: Store, name: str) -> State:
    """Return the state over `store` as one execution of the run `name` sees it."""
    owner = LockOwner(name, uuid4().hex, run_id=name, held=HeldLocks())
    return State(store, RunContext(owner, run_id=name), limit=100_000)


# -- in the processes ----------------------------------------------------------------------------------------------


class Journal:
    """Writes down each operation before and after. `time.monotonic` is one clock for all processes."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def note(self, what: str, **data: Any) -> None:
        """Write one line at once."""
        self._file.write(json.dumps({"what": what, "at": time.monotonic(), **data}) + "\n")
        self._file.flush()

    def call(self, what: str, work: Callable[[], Any], **data: Any) -> Any:
        """Do `work` between two lines; one that raised an error that is part of the game ends as refused."""
        self.note("begin", call=what, **data)
        try:
            result = work()
        except (CounterRange, VersionConflict, LockLost) as error:
            self.note("refused", call=what, error=type(error).__name__, **data)
            return None
        except StoreUnavailable as error:
            self.note("unknown" if error.maybe_applied else "refused", call=what, error=str(error), **data)
            return None
        self.note("done", call=what, result=result, **data)
        return result


def work(attack: Attack, number: int, life: int) -> None:
    """Do random operations for as long as the attack goes on."""
    dice = random.Random(f"{attack.seed}-{number}-{life}")
    name = f"run-{number}-{life}"
    state = attack.state(name)
    with (attack.folder / f"{name}.journal").open("a") as file:
        journal = Journal(file)
        journal.note("start")
        turn = 0
        while not (attack.folder / "over").exists():
            turn += 1
            dice.choice(OPERATIONS)(state, journal, dice, f"{name}-{turn}")
        journal.note("end")


def _increment(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    key = dice.choice(KEYS)
    journal.call("increment", lambda: state.increment(f"count:{key}"), key=key)


def _take(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    key = dice.choice(KEYS)
    journal.call("take", lambda: state.increment(f"capped:{key}", ceiling=CEILING), key=key)


def _reset(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    if dice.random() < 0.2:
        journal.call("reset", lambda: state.reset("till"))
    else:
        journal.call("pay in", lambda: state.increment("till"))


def _update(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    key = f"{dice.choice(KEYS)}{time.monotonic() // 5:.0f}"  # another list each 5 s, so that none grows too large
    journal.call(
        "update", lambda: state.update(f"list:{key}", lambda tags: [*tags, tag], []) and None, key=key, tag=tag
    )


def _compare_and_set(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    entry = state.entry("cas")
    if entry is None:
        journal.call("cas", lambda: state.add("cas", {"tag": tag, "n": 1}) or None, tag=tag)
    else:
        value = {"tag": tag, "n": entry.value["n"] + 1}
        journal.call("cas", lambda: state.set("cas", value, if_version=entry.version), tag=tag)


def _add(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    key = str(dice.randrange(ROUNDS))
    journal.call("add", lambda: state.add(f"first:{key}", tag), key=key, tag=tag)


def _give_or_take(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    key = dice.choice(KEYS)
    if dice.random() < 0.5:
        journal.call("give", lambda: state.add(f"pot:{key}", tag), key=key, tag=tag)
    else:
        journal.call("pop", lambda: state.pop(f"pot:{key}"), key=key)


def _section(state: State, journal: Journal, dice: random.Random, tag: str) -> None:
    name = dice.choice(KEYS)
    renewed = dice.random() < 0.5
    lock = state.lock(name, ttl=5, renew=renewed)
    lock.ttl = LOCK_TTL
    if not journal.call("acquire", lock.acquire, name=name):
        return
    journal.note("hold", name=name, fence=lock.fence)
    if dice.random() < 0.7:
        value = {"fence": lock.fence, "tag": tag}
        journal.call("guarded", lambda: state.set(f"guarded:{name}", value, fence=lock), name=name, fence=lock.fence)
    if dice.random() < 0.1:
        time.sleep(LOCK_TTL * dice.uniform(0.2, 3.0 if renewed else 1.5))
    journal.call("release", lock.release, name=name, fence=lock.fence)


OPERATIONS = (_increment, _take, _reset, _update, _compare_and_set, _add, _give_or_take, _section, _section)


# -- from outside --------------------------------------------------------------------------------------------------


def attack_with_faults(attack: Attack) -> dict[str, int]:
    """Run the processes, stop and kill them on the way, and return what was done to them."""
    dice = random.Random(attack.seed)
    done = {"stopped": 0, "killed": 0}
    lives = [_begin(attack, number, 0) for number in range(attack.processes)]
    born = [0] * attack.processes
    wait_for(lambda: all(_has_begun(attack, n, 0) for n in range(attack.processes)), timeout=60, message="all to begin")
    over = time.monotonic() + attack.seconds
    while time.monotonic() < over:
        time.sleep(dice.uniform(0.05, 0.3))
        number = dice.randrange(attack.processes)
        process = lives[number]
        if not _has_begun(attack, number, born[number]):
            continue
        if dice.random() < 0.3 or not done["killed"]:
            process.kill()
            process.join()
            done["killed"] += 1
            born[number] += 1
            lives[number] = _begin(attack, number, born[number])
        else:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(LOCK_TTL * dice.uniform(0.2, 2.5))
                os.kill(process.pid, signal.SIGCONT)
                done["stopped"] += 1
    (attack.folder / "over").touch()
    for process in lives:
        process.join(60)
    assert [process.exitcode for process in lives] == [0] * attack.processes, f"seed {attack.seed}"
    return done


def _begin(attack: Attack, number: int, life: int) -> Any:
    process = SPAWN.Process(target=work, args=(attack, number, life))
    process.start()
    return process


def _has_begun(attack: Attack, number: int, life: int) -> bool:
    journal = attack.folder / f"run-{number}-{life}.journal"
    return journal.exists() and journal.stat().st_size > 0


class Story:
    """What the journals say, call by call: those that are done, refused, and unknown since nobody lived to tell."""

    def __init__(self, folder: Path) -> None:
        self.done: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.unknown: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.held: list[tuple[str, int, float, float]] = []
        self.fences: dict[str, list[int]] = defaultdict(list)
        self.calls = 0
        for path in sorted(folder.glob("*.journal")):
            self._read([json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")])

    def _read(self, lines: list[dict[str, Any]]) -> None:
        open_call: dict[str, Any] | None = None
        since: dict[str, tuple[int, float]] = {}
        for line in lines:
            what, call = line["what"], line.get("call", "")
            if what == "begin":
                open_call, self.calls = line, self.calls + 1
            elif what == "hold":
                since[line["name"]] = (line["fence"], line["at"])
                self.fences[line["name"]].append(line["fence"])
            elif open_call is not None:
                if what == "done":
                    self.done[call].append(line)
                    if call == "release":
                        fence, acquired = since[line["name"]]
                        self.held.append((line["name"], fence, acquired, open_call["at"]))
                elif what == "unknown":
                    self.unknown[call].append(line)
                open_call = None
        if open_call is not None:
            self.unknown[open_call["call"]].append(open_call)

    def of(self, call: str, **data: Any) -> list[dict[str, Any]]:
        """Return the calls that were done."""
        return [one for one in self.done[call] if all(one.get(name) == value for name, value in data.items())]

    def maybe(self, call: str, **data: Any) -> list[dict[str, Any]]:
        """Return the calls of which nobody knows."""
        return [one for one in self.unknown[call] if all(one.get(name) == value for name, value in data.items())]


def check(story: Story, state: State) -> None:
    """Compare what the processes were told with each other and with what the store holds now."""
    for key in KEYS:
        _check_counter(story, state, key)
        _check_pot(story, state, key)
        _check_lock(story, state, key)
    for key in {one["key"] for found in (story.done, story.unknown) for one in found["update"]}:
        _check_updates(story, state, key)
    _check_till(story, state)
    _check_compare_and_set(story, state)
    _check_adds(story, state)


def _check_counter(story: Story, state: State, key: str) -> None:
    numbers = [one["result"] for one in story.of("increment", key=key)]
    assert len(set(numbers)) == len(numbers), "two increments got the same value"
    final = state.count(f"count:{key}")
    assert len(numbers) <= final <= len(numbers) + len(story.maybe("increment", key=key)), "an increment was lost"
    taken = len(story.of("take", key=key))
    capped = state.count(f"capped:{key}")
    assert capped <= CEILING, "the ceiling was passed"
    assert taken <= capped <= taken + len(story.maybe("take", key=key))


def _check_till(story: Story, state: State) -> None:
    paid, maybe_paid = len(story.of("pay in")), len(story.maybe("pay in"))
    found = sum(one["result"] for one in story.of("reset")) + state.count("till")
    assert found <= paid + maybe_paid, "a reset returned what was not there"
    if not story.maybe("reset"):
        assert paid <= found, "a reset lost increments"


def _check_updates(story: Story, state: State, key: str) -> None:
    tags: list[str] = state.get(f"list:{key}", [])
    assert len(set(tags)) == len(tags), "an update was applied twice"
    told, maybe = ({one["tag"] for one in found("update", key=key)} for found in (story.of, story.maybe))
    assert told <= set(tags), "an update was lost"
    assert set(tags) <= told | maybe


def _check_compare_and_set(story: Story, state: State) -> None:
    won = [one for one in story.of("cas") if one["result"] is not None]
    entry = state.entry("cas")
    final = entry.value["n"] if entry is not None else 0
    assert len(won) <= final <= len(won) + len(story.maybe("cas")), "two writers passed with one version"


def _check_adds(story: Story, state: State) -> None:
    for key in map(str, range(ROUNDS)):
        winners = [one["tag"] for one in story.of("add", key=key, result=True)]
        assert len(winners) <= 1, "two found the key absent"
        if winners:
            assert state.get(f"first:{key}") == winners[0]


def _check_pot(story: Story, state: State, key: str) -> None:
    given = {one["tag"] for one in story.of("give", key=key, result=True)}
    maybe_given = {one["tag"] for one in story.maybe("give", key=key)}
    popped = [one["result"] for one in story.of("pop", key=key) if one["result"] is not None]
    assert len(set(popped)) == len(popped), "one value was popped twice"
    assert set(popped) <= given | maybe_given
    missing = given - set(popped) - {state.get(f"pot:{key}")}
    assert len(missing) <= len(story.maybe("pop", key=key)), "a value vanished"


def _check_lock(story: Story, state: State, name: str) -> None:
    spans = sorted((start, end, fence) for held, fence, start, end in story.held if held == name)
    for (_, end, fence), (start, _, next_fence) in pairwise(spans):
        assert end <= start, f"two held the lock {name} at once (fences {fence} and {next_fence})"
        assert fence < next_fence, "a fence went backwards"
    fences = story.fences[name]
    assert len(set(fences)) == len(fences), "two holders got the same fence"
    _check_guarded(story.of("guarded", name=name))


def _check_guarded(writes: Iterable[dict[str, Any]]) -> None:
    in_order = [one["fence"] for one in sorted(writes, key=lambda one: one["result"])]
    assert in_order == sorted(in_order), "a stalled holder wrote behind its successor"
