"""tantivy itself: a small Rust program, with the pruning of its top-k collector and its counting without scores."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.compare.engine import Unavailable
from benchmarks.compare.outside import Outside

HERE = Path(__file__).parent


class Rival(Outside):
    """``TopDocs`` alone for TOP_k (``Weight::for_each_pruning``: block-max WAND), ``Count`` alone for COUNT,
    both at once for TOP_10_COUNT."""

    settings = ("Rust program, release build, lto = fat, target-cpu=native; default tokenizer, one thread, writer "
                "heap of 3 GB, id and text stored (lz4)")
    score_scale = 2.2  # tantivy's scores keep the factor k1 + 1

    @classmethod
    def check(cls) -> None:
        if shutil.which("cargo") is None:
            raise Unavailable("cargo, which builds the Rust program, is not installed")
        done = subprocess.run(["cargo", "build", "--release"], cwd=HERE, capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"cargo could not build {HERE.name}: {done.stderr[-500:]}")

    @classmethod
    def program(cls) -> list[str]:
        return [str(HERE / "target" / "release" / "compare-native-tantivy")]
