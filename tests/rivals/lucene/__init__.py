"""Lucene itself, as one Java process that reads cases and writes answers as JSON lines (``Rival.java``).

Needs Java 11 or later and Maven; the jars that ``pom.xml`` names are fetched once, into
``$XDG_CACHE_HOME/quidditch-tests``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

import numpy as np

from tests.rivals.cases import Answer, Case

HERE = Path(__file__).parent


class LuceneUnavailable(Exception):
    """Java, Maven or the jars are missing; the message says which."""


def jars() -> Path:
    """The directory of the jars, filled on first use; named by the hash of the POM, so it is never stale."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    pom = HERE / "pom.xml"
    place = cache / "quidditch-tests" / f"lucene-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    if place.is_dir():
        return place
    if shutil.which("mvn") is None:
        raise LuceneUnavailable("mvn, which fetches Lucene's jars, is not installed")
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    copy = ["dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(pom), *copy], capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        raise LuceneUnavailable(f"mvn could not fetch Lucene's jars: {done.stdout[-500:]}")
    try:
        fresh.rename(place)
    except OSError:  # another process was quicker
        shutil.rmtree(fresh)
    return place


class Lucene:
    """``with Lucene() as lucene: lucene.answer(case)``"""

    def __enter__(self) -> Lucene:
        if shutil.which("java") is None:
            raise LuceneUnavailable("java is not installed")
        command = ["java", "-Xshare:auto", "-cp", f"{jars()}/*", str(HERE / "Rival.java")]
        self._java = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._java.communicate(timeout=30)

    def answer(self, case: Case) -> list[Answer]:
        assert self._java.stdin is not None
        assert self._java.stdout is not None
        assert self._java.stderr is not None
        request = {
            "segments": case.segments,
            "deleted": case.deleted,
            "queries": case.queries,
            "size": case.size,
        }
        self._java.stdin.write(json.dumps(request) + "\n")
        self._java.stdin.flush()
        line = self._java.stdout.readline()
        if not line:
            raise AssertionError(f"Rival.java failed: {self._java.stderr.read()}")
        return [
            Answer(each["count"], each["ids"], list(np.array(each["bits"], np.int32).view(np.float32)))
            for each in json.loads(line)["answers"]
        ]
