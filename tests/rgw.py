"""A real S3 store for the tests: Ceph's gateway over one monitor and one OSD in memory.

``served(directory)`` starts it, as `tests.s3.served` starts moto, and ends it; all it writes is in ``directory``.
``python -m tests.rgw`` serves one until it is interrupted, and prints its URL. It needs Debian's packages::

    apt-get install --no-install-recommends radosgw ceph-mon ceph-osd
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests import s3

PROGRAMS: Final = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES: Final = ("radosgw", "ceph-mon", "ceph-osd")
PATIENCE: Final = 90.0
"""Seconds until a part must have come up."""

# One copy of everything, no manager; cephx, because the gateway does not get on without.
CONFIGURATION: Final = """
[global]
fsid = {fsid}
mon host = {mon}
public addr = 127.0.0.1
keyring = {directory}/keyring
run dir = {directory}
admin socket = {directory}/$name.asok
pid file =
log file = {directory}/$name.log
crash dir = {directory}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
[mon]
mon data = {directory}/mon
[osd]
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw} tcp_nodelay=1
rgw data = {directory}
rgw thread pool size = 64
"""


def missing() -> list[str]:
    """The programs that this machine does not have."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The gateway, listening on a port of its own, with a bucket and the user of `tests.s3.options`."""
    if gone := missing():
        raise AssertionError(f"no {', '.join(gone)}: apt-get install --no-install-recommends {' '.join(PACKAGES)}")
    cluster = _Cluster(directory)
    try:
        cluster.start()
        yield cluster.url
    finally:
        cluster.stop()


class _Cluster:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        mon, rgw = _free_ports(2)
        self._fsid, self._monitor = str(uuid.uuid4()), f"[v2:127.0.0.1:{mon}/0]"
        self.url = f"http://127.0.0.1:{rgw}"
        self._configuration = directory / "ceph.conf"
        self._configuration.write_text(
            CONFIGURATION.format(fsid=self._fsid, directory=directory, mon=self._monitor, rgw=rgw))
        everything = "".join(f'\tcaps {of} = "allow *"\n' for of in ("mon", "osd", "mgr"))
        (directory / "keyring").write_text("".join(
            f"[{name}]\n\tkey = {_key()}\n{everything}" for name in ("mon.", "client.admin", "osd.0", "client.rgw")))
        for name in ("mon", "osd"):
            (directory / name).mkdir()

    def start(self) -> None:
        monmap = str(self._directory / "monmap")
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._monitor, monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a", "-f")
        self._until("the monitor", lambda: self._ceph("-s"))
        disk = str(uuid.uuid4())
        self._ceph("osd", "new", disk, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._spawn("ceph-osd", "-i", "0", "-f")
        self._until("the OSD", lambda: '"num_up_osds": 1' in self._ceph("osd", "stat", "-f", "json-pretty"))
        self._run("radosgw-admin", "user", "create", "--uid", "tests", "--display-name", "tests",
                  "--access-key", s3.KEY, "--secret-key", s3.SECRET)
        self._spawn("radosgw", "-n", "client.rgw", "-f")
        self._until("the gateway", self._answers)
        s3.make_bucket(self.url)

    def stop(self) -> None:
        """End all processes, the gateway first; who does not listen is killed."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 2
        for process in reversed(self._processes):
            try:
                process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.url.rpartition(":")[2]), timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        finally:
            connection.close()

    def _until(self, what: str, ready: Callable[[], Any]) -> None:
        ends = time.monotonic() + PATIENCE
        while True:
            dead = [process for process in self._processes if process.poll() is not None]
            try:
                if not dead and ready():
                    return
            except (OSError, subprocess.CalledProcessError):
                pass
            if dead or time.monotonic() > ends:
                raise AssertionError(f"{what} did not come up:\n{self._logs()}")
            time.sleep(0.2)

    def _ceph(self, *arguments: str) -> str:
        return self._run("ceph", "--connect-timeout", "5", *arguments)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(self._command(program, arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=PATIENCE, text=True)
        if done.returncode:
            with (self._directory / "failed.log").open("a") as log:
                log.write(f"{program} {' '.join(arguments)}\n{done.stdout}\n")
            raise subprocess.CalledProcessError(done.returncode, program, done.stdout)
        return done.stdout

    def _spawn(self, program: str, *arguments: str) -> None:
        with (self._directory / f"{program}.out").open("wb") as out:
            self._processes.append(subprocess.Popen(self._command(program, arguments), stdout=out, stderr=out,
                                                    preexec_fn=_die_with_parent))

    def _command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        return [program, "-c", str(self._configuration), *arguments]

    def _logs(self) -> str:
        files = [*self._directory.glob("*.out"), *self._directory.glob("*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also where a parent is killed and can end nothing


def _key() -> str:
    """A secret in the form of a keyring: type, when it was made, length, 16 bytes."""
    return base64.b64encode(struct.pack("<hiih", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, served(Path(directory)) as url:
        print(f"{url}  key {s3.KEY}  secret {s3.SECRET}  bucket {s3.BUCKET}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
