"""Lucene: a small Java program on the newest JDK of this machine. Lucene 10 from Java 21 on, else Lucene 9.12."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.compare.engine import Unavailable
from benchmarks.compare.outside import Outside

HERE = Path(__file__).parent
OLDER = "9.12.3"
"""For Java 17 to 20."""


class Rival(Outside):
    """TopScoreDocCollectorManager with a totalHitsThreshold of 1 for TOP_k, of Integer.MAX_VALUE for TOP_10_COUNT;
    IndexSearcher.count for COUNT."""

    settings = ("Java program, jdk.incubator.vector, SerialGC, heap of 6 GB; StandardAnalyzer without stop words, one "
                "thread, MMapDirectory, no query cache, id and text stored")
    warm_seconds = 30

    @classmethod
    def check(cls) -> None:
        java, home = newest_jdk()
        if shutil.which("mvn") is None:
            raise Unavailable("mvn, which fetches Lucene's jars, is not installed")
        target, ten = _target(java), java >= 21
        sources = sorted([*(HERE / "src").glob("*.java"), *(HERE / ("src10" if ten else "src9")).glob("*.java")])
        jars, named = target / "jars", HERE / "pom.xml"
        if not jars.is_dir() or jars.stat().st_mtime < named.stat().st_mtime:
            fresh = target / f"jars-{os.getpid()}"
            older = [f"-D{part}.version={OLDER}" for part in ("lucene", "lucene.expressions")]
            _run(["mvn", "-q", "-B", "-f", str(named), "dependency:copy-dependencies",
                  f"-DoutputDirectory={fresh}", *([] if ten else older)])
            shutil.rmtree(jars, ignore_errors=True)
            fresh.rename(jars)
            jars.touch()
        built = target / "classes" / "Rival.class"
        if not built.exists() or built.stat().st_mtime < max(source.stat().st_mtime for source in sources):
            _run([str(home / "bin" / "javac"), "-d", str(target / "classes"), "-cp", f"{target}/jars/*",
                  *map(str, sources)])

    @classmethod
    def program(cls, name: str = "Rival") -> list[str]:
        java, home = newest_jdk()
        target = _target(java)
        return [str(home / "bin" / "java"), "-Xmx6g", "-XX:+UseSerialGC", "--add-modules=jdk.incubator.vector",
                "--enable-native-access=ALL-UNNAMED", "-cp", f"{target}/classes:{target}/jars/*", name]


def newest_jdk() -> tuple[int, Path]:
    """Major version and home of the newest JDK: of JAVA_HOME, of the one in PATH and of those that Linux installs."""
    compiler = shutil.which("javac")
    homes = [Path(os.environ["JAVA_HOME"])] if "JAVA_HOME" in os.environ else []
    homes += [Path(compiler).resolve().parent.parent] if compiler else []
    homes += sorted(Path("/usr/lib/jvm").glob("*"))
    found = []
    for home in homes:
        release = home / "release"
        if (home / "bin" / "javac").exists() and release.exists():
            version = re.search(r'JAVA_VERSION="(\d+)', release.read_text())
            if version is not None:
                found.append((int(version[1]), home))
    if not found or max(found)[0] < 17:
        raise Unavailable("no JDK from 17 on is installed; set JAVA_HOME if it is in an unusual place")
    return max(found)


def _target(java: int) -> Path:
    return HERE / "target" / f"java{java}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(f"{Path(command[0]).name} failed: {(done.stdout + done.stderr)[-500:]}")
