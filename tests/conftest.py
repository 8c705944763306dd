"""What all tests share: the options, the corpora that a machine may have, indexes that close themselves.

``--corpora PATH`` (or ``QUIDDITCH_CORPORA``) names a directory of ``NAME.jsonl.zst``, ``NAME.queries.tsv``,
``NAME.qrels``; tests that need one are skipped without it. ``--lucene`` runs the comparisons with Lucene.
``--s3-real`` takes Ceph's gateway (`tests.rgw`) where else moto serves S3, and adds the tests that need a real one.
``--fault-scripts 5000`` runs so many scripts of faulty stores.
``HYPOTHESIS_PROFILE=long`` searches for counterexamples for hours, ``ci`` (the default) for seconds;
``raw`` shows the first one unshrunk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from quidditch_core import jit

COMMON: dict[str, Any] = {
    "deadline": None,  # the first call of a kernel compiles it
    "print_blob": True,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("ci", max_examples=50, derandomize=bool(os.environ.get("CI")), **COMMON)
# Shrinking a counterexample takes minutes, more than a run of the tests may.
hypothesis.settings.register_profile("raw", max_examples=200, phases=[hypothesis.Phase.generate], **COMMON)
hypothesis.settings.register_profile("long", max_examples=5_000, stateful_step_count=100, **COMMON)
os.environ.setdefault("QUIDDITCH_KERNELS", "compiled")  # wait for the compiler, so that what is tested is known
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("quidditch")
    group.addoption("--corpora", metavar="PATH", default=os.environ.get("QUIDDITCH_CORPORA"),
                    help="directory of corpora (default: QUIDDITCH_CORPORA)")
    group.addoption("--lucene", action="store_true", help="also compare with Lucene (needs Java)")
    group.addoption("--fault-scripts", metavar="N", type=int, default=500,
                    help="scripts of faulty stores (default: 500)")
    group.addoption("--s3-real", action="store_true", default=bool(os.environ.get("QUIDDITCH_S3_REAL")),
                    help="S3 is Ceph's gateway, not moto (needs Ceph: make test-s3-real)")


ON_REQUEST = {"lucene": "compares with Lucene: pass --lucene",
              "s3_real": "needs a real S3 store: make test-s3-real, or pass --s3-real"}


def pytest_configure(config: pytest.Config) -> None:
    for marker, reason in ON_REQUEST.items():
        config.addinivalue_line("markers", f"{marker}: {reason}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, reason in ON_REQUEST.items():
        if not config.getoption(f"--{marker.replace('_', '-')}"):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def python_env(root: Path) -> dict[str, str]:
    """An environment for child processes that import the package from this checkout, installed or not."""
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="module", params=["jit", *jit.levels()])
def machine_code(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where ``Kernel.compiled`` gets its code: from the compiler, or from one of the images that ship."""
    source: str = request.param
    if source != "jit" and not all(entry.shipped(source) for entry in jit.every_kernel()):
        message = "there is no image of the sources as they are: make kernels"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit.Kernel, "compiled",
                      jit.Kernel.jitted if source == "jit" else lambda entry: entry.shipped(source))
        yield source


@pytest.fixture(scope="session")
def corpora(request: pytest.FixtureRequest) -> Path:
    """The directory of corpora; skips where there is none."""
    given = request.config.getoption("--corpora")
    if not given:
        pytest.skip("needs corpora: pass --corpora PATH or set QUIDDITCH_CORPORA")
    path = Path(given)
    if not path.is_dir():
        pytest.fail(f"--corpora {path}: no such directory")
    return path


@pytest.fixture
def tmp_index(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``tmp_index(mapping, **create_arguments)`` makes an index below ``tmp_path``; closed at the end."""
    import quidditch_core as qc

    made: list[Any] = []

    def create(mapping: Any = None, **arguments: Any) -> Any:
        made.append(qc.create(tmp_path / f"index-{len(made)}", mapping, **arguments))
        return made[-1]

    yield create
    for index in made:
        index.close()


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server of our own: moto, or Ceph's gateway with ``--s3-real``. Its bucket is ``books``."""
    from tests import rgw, s3

    server = rgw if request.config.getoption("--s3-real") else s3
    with server.served(tmp_path_factory.mktemp("s3")) as url:
        yield url
