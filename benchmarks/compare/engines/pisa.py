"""PISA, as the C extension of pyterrier-pisa has it: no positions, no stored text, no updates, no counting.

The extension is loaded without the Python package around it, which would need PyTerrier and Java.
``pip install --no-deps pyterrier-pisa tbb==2020.3.254``
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.engine import Answer, Engine
from benchmarks.compare.workload import Command, Document, Query

_ENCODING = "block_simdbp"
_DEEPEST = 1000


def _extension() -> Any:
    package = importlib.util.find_spec("pyterrier_pisa")
    if package is None or package.origin is None:
        raise ImportError("no module named pyterrier_pisa; pip install --no-deps pyterrier-pisa tbb==2020.3.254")
    tbb = Path(sys.prefix, "lib", "libtbb.so.2")
    if tbb.exists():
        ctypes.CDLL(str(tbb), mode=ctypes.RTLD_GLOBAL)
    (file,) = Path(package.origin).parent.glob("_pisathon*.so")
    loader = ExtensionFileLoader("_pisathon", str(file))
    spec = importlib.util.spec_from_loader("_pisathon", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


_pisa = _extension()


class Rival(Engine):
    """MAXSCORE for terms and unions, ranked AND with block bounds for intersections."""

    scored = False
    kinds = ("term", "intersection", "union")
    commands = ("TOP_10", "TOP_100", "TOP_1000")
    deletes = False
    settings = f"{_ENCODING}, block_max_maxscore and block_max_ranked_and, k1 1.2, b 0.75, no stemming, one thread"

    @property
    def version(self) -> str:
        return version("pyterrier-pisa")

    def create(self) -> None:
        self.directory.mkdir()
        self._texts = (self.directory / "texts").open("w")
        self._count = 0

    def add(self, documents: Sequence[Document]) -> None:
        """Collect: it indexes all at once."""
        self._texts.writelines(f"{id} {text}\n" for id, text in documents)
        self._count += len(documents)

    def merge(self) -> None:
        """Nothing to merge."""

    def close(self) -> None:
        self._texts.close()
        # In one batch: on a single core it waits for ever for a thread that would take the first of several.
        _pisa.index(self._texts.name, str(self.directory), "", self._count + 1, 1)
        Path(self._texts.name).unlink()
        self._prepare()

    def open(self) -> None:
        self._prepare()
        # It leaves out of a query the words that it does not know, of an intersection too.
        self._words = set((self.directory / "fwd.terms").read_text().split())

    def _prepare(self) -> None:
        """Compress and compute bounds where that was not done, and map the files."""
        self._context = _pisa.RetrievalContext()
        _pisa.prepare_index(self._context, str(self.directory), _ENCODING, "bm25", "", bm25_k1=1.2, bm25_b=0.75,
                            stop_fname="")
        self._numbers = np.empty(_DEEPEST, np.int32)
        self._ids = np.empty(_DEEPEST, object)
        self._ranks = np.empty(_DEEPEST, np.int32)
        self._scores = np.empty(_DEEPEST, np.float32)

    def run(self, query: Query, command: Command) -> int:
        if query.kind == "intersection" and not self._words.issuperset(query.terms):
            return 0
        algorithm = "block_max_ranked_and" if query.kind == "intersection" else "block_max_maxscore"
        weights: dict[str, float] = {}
        for term in query.terms:
            weights[term] = weights.get(term, 0.0) + 1.0
        found: int = _pisa.retrieve(
            self._context, algorithm, [(0, weights)], k=command.k, threads=1, pretokenised=1, query_weighted=1,
            result_qidxs=self._numbers, result_docnos=self._ids, result_ranks=self._ranks,
            result_scores=self._scores)
        return found

    def read(self, result: int, command: Command) -> Answer:
        return Answer(result, self._scores[:result].tolist())
