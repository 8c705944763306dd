"""Scripts of faulty stores, in short; and that they see a promise that is broken.

``python -m tests.crash.stores --scripts 50000`` goes on where these tests stop; so does ``--fault-scripts 5000`` here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from quidditch_core.index import maintenance, restore, snapshot
from quidditch_core.index import store as index_store
from quidditch_core.index.blobs import Blobs
from tests.crash import stores
from tests.crash.stores import Faults, Trial
from tests.s3 import BUCKET, options, proxied


def test_scripts(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--fault-scripts")
    report = stores.run(Trial(seed) for seed in range(count))
    assert not report.broken, report
    assert report.scripts == count
    if count >= 500:
        assert set(report.faults) == {*Faults.KINDS, "death"}, "every kind of fault comes up"
        assert report.died > count / 10
        assert {f"{kind}Error" for kind in ("Outage", "Denied", "Throttled", "SlowStore", "Truncated")} <= set(
            report.errors)


def test_scripts_against_a_server(s3_server: str) -> None:
    """The same over S3, behind a proxy that fails."""
    with proxied(s3_server) as proxy:
        report = stores.run(stores.Remote(seed, f"s3://{BUCKET}", options(proxy.url), proxy) for seed in range(5))
    assert not report.broken, report
    assert len(report.faults) > 4


@contextmanager
def careless(patch: pytest.MonkeyPatch, where: Any, name: str, replacement: Any) -> Iterator[None]:
    with patch.context() as inner:
        inner.setattr(where, name, replacement)
        yield


@pytest.mark.parametrize(("where", "name", "replacement"), [
    (index_store, "verify", lambda tier, entry: None),
    (Blobs, "complete", lambda self, blob, form: True),
    (snapshot.Repository, "_relied_on", lambda self: set()),
    (restore, "_clear", lambda *arguments: None),
    (maintenance.Maintenance, "sweep", lambda self: None),
])
def test_a_careless_engine_is_seen(
    where: Any, name: str, replacement: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without any one of its precautions some script breaks it."""
    with careless(monkeypatch, where, name, replacement):
        assert stores.run((Trial(seed) for seed in range(3000)), most=1).broken
