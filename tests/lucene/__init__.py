"""Lucene as an oracle: finds its jars and runs the Java programs of this directory on them.

Jars are in ``QUIDDITCH_LUCENE_JARS`` if that is set, else in the user's cache, where Maven puts them when
tests marked ``lucene`` run (``--lucene``) or the golden file is made again (``golden.py``).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

VERSION = "9.12.3"
"""The newest Lucene that runs on Java 11 to 20."""
ARTIFACTS = ("lucene-core", "lucene-analysis-common")
GOLDEN = Path(__file__).parent.parent / "golden" / "lucene_tokens.json"


class Unavailable(Exception):
    """Why Lucene cannot be asked on this machine."""


def jars_directory() -> Path:
    """Where the jars are or will be."""
    given = os.environ.get("QUIDDITCH_LUCENE_JARS")
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "quidditch-tests" / "lucene"


def jars(artifacts: Sequence[str] = ARTIFACTS) -> list[Path]:
    """Paths of the jars, downloaded where they are not there yet."""
    if shutil.which("java") is None:
        raise Unavailable("there is no java on the path")
    directory = jars_directory()
    paths = [directory / f"{artifact}-{VERSION}.jar" for artifact in artifacts]
    for artifact, path in zip(artifacts, paths, strict=True):
        if not path.exists():
            _download(artifact, directory)
    return paths


def _download(artifact: str, directory: Path) -> None:
    if shutil.which("mvn") is None:
        raise Unavailable(f"{artifact} {VERSION} is not in {directory}, and there is no mvn to fetch it")
    done = subprocess.run(
        ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact=org.apache.lucene:{artifact}:{VERSION}",
         f"-DoutputDirectory={directory}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"mvn could not fetch {artifact} {VERSION}: {(done.stdout or done.stderr)[-300:]}")


def java(program: str, *arguments: str, lines: Iterable[str] = ()) -> list[Any]:
    """Run ``program`` (a file of this directory) and decode each line that it prints as JSON."""
    done = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-cp", os.pathsep.join(map(str, jars())),
         str(Path(__file__).with_name(program)), *arguments],
        input="".join(line + "\n" for line in lines), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def tokens(analyzer: str, texts: Iterable[str]) -> list[list[list[Any]]]:
    """Lucene's tokens of each text: ``[term, position, start, end]``, offsets in code points."""
    encoded = (base64.b64encode(text.encode("utf-16-be", "surrogatepass")).decode() for text in texts)
    return java("Tokens.java", "tokens", analyzer, lines=encoded)
