"""Many threads and processes at once: nothing is lost, nothing is seen twice, nobody blocks for good."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import quidditch_core as qc
from quidditch_core import query as q

SECONDS = 2.0
MAPPING: dict[str, Any] = {"properties": {
    "body": {"type": "text"}, "owner": {"type": "keyword"}, "n": {"type": "long"}}}


def write(index: Any, owner: int, until: float, state: dict[str, int]) -> None:
    """Put, update and delete documents of one's own; ``state`` is what must be there."""
    random = Random(owner)
    n = 0
    while time.monotonic() < until:
        n += 1
        id = f"{owner}-{random.randrange(60)}"
        if random.random() < 0.2:
            index.delete(id)
            state.pop(id, None)
        elif random.random() < 0.2 and id in state:
            index.update(id, {"n": n})
            state[id] = n
        else:
            index.put(id, {"body": f"whale {'sea ' * (n % 5)}", "owner": f"w{owner}", "n": n})
            state[id] = n
        found = index.get(id)
        assert (found.source["n"] if found else None) == state.get(id)


def search(index: Any, until: float) -> None:
    """Within one reader everything agrees, whatever is written and merged meanwhile."""
    while time.monotonic() < until:
        with index.reader() as reader:
            total = reader.count()
            result = reader.search(q.MatchAll(), size=1000, source=False)
            ids = [hit.id for hit in result.hits]
            assert len(set(ids)) == len(ids) == total == result.total.value
            assert reader.count(q.Match("body", "whale")) == total
            assert sum(reader.count(q.Term("owner", f"w{owner}")) for owner in range(4)) == total


def maintain(index: Any, until: float, seed: int) -> None:
    random = Random(seed)
    while time.monotonic() < until:
        random.choice([index.refresh, index.refresh, index.flush, lambda: index.merge(random.randint(1, 3))])()
        time.sleep(0.005)


@pytest.mark.parametrize("durability", ["request", "async"])
def test_threads_do_everything_at_once(tmp_path: Path, durability: str) -> None:
    states: list[dict[str, int]] = [{} for _ in range(4)]
    failures: list[BaseException] = []

    def guarded(task: Callable[..., None], *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                task(*arguments)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    settings = {"refresh_interval": "20ms", "translog": {"durability": durability}}
    with qc.create(tmp_path / "index", MAPPING, settings=settings) as index:
        until = time.monotonic() + SECONDS
        threads = [guarded(write, index, owner, until, states[owner]) for owner in range(4)]
        threads += [guarded(search, index, until) for _ in range(2)]
        threads += [guarded(maintain, index, until, seed) for seed in range(2)]
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread does not end"
        assert not failures, failures
        expected = {id: n for state in states for id, n in state.items()}
        index.refresh()
        assert {hit.id: hit.source["n"] for hit in index.search(size=1000).hits} == expected
        assert index.check().ok, str(index.check())
    with qc.open(tmp_path / "index") as again:
        assert {hit.id: hit.source["n"] for hit in again.search(size=1000).hits} == expected


FOLLOWER = """
import sys, time
import quidditch_core as qc
with qc.open(sys.argv[1], read_only=True) as index:
    print("open", flush=True)
    last = 0
    while last < 300:
        index.refresh()
        count = index.count()
        assert count >= last and count % 10 == 0, (count, last)
        assert len(index.search(size=1000, source=False).hits) == count
        last = count
print("done", flush=True)
"""


def test_a_reader_in_another_process_follows_flushes(tmp_path: Path, python_env: dict[str, str]) -> None:
    with qc.create(tmp_path / "index", MAPPING, settings={"refresh_interval": "-1"}) as index:
        child = subprocess.Popen([sys.executable, "-c", FOLLOWER, str(tmp_path / "index")], env=python_env, text=True,
                                 stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        for batch in range(30):
            index.bulk([{"body": "whale", "n": 10 * batch + i} for i in range(10)])
            index.flush()
        assert child.communicate(timeout=60)[0] == "done\n"
        assert child.returncode == 0
