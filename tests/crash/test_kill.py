"""Twenty real ``kill -9`` under load. More: ``python -m tests.crash.kill --rounds 1000``."""

from __future__ import annotations

from pathlib import Path

from tests.crash import kill


def test_no_acknowledged_operation_is_lost(tmp_path: Path) -> None:
    report = kill.run(20, 0, tmp_path)
    print(report)
    assert not report.broken, report
    assert report.kills == 20
    assert report.acknowledged > 500
