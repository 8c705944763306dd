"""Flush and merge: the long jobs of a writer, one at a time, beside operations and searches.

A job takes the writer's lock twice: to begin, when it notes which segments and live masks it works on, and to
end, when it puts its result in their place, deletes in it what was deleted meanwhile, and commits a manifest.
In between operations go on. A manifest says exactly one thing: the state after operation N. A flush moves N to
the operation at which it began; a merge works on committed masks and leaves N where it was.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec
import numpy as np

from .. import metrics
from ..codec.v1.stored import codec_named
from ..errors import NotFoundError, StorageError, StoreError
from ..tiering import HOT
from ..tiering.policy import Placed
from . import manifest as manifests
from . import merge as merging
from . import store
from .holding import Bitmap, Holding
from .places import COLD
from .writer import Writer, candidate

REST = 0.25
"""Share of its time that a background merge rests, so that searches and writes get the cores."""


class MergeCancelled(Exception):
    """The index is closing; the merge left nothing behind."""


class Maintenance:
    """Runs the jobs of one writer. Methods take the locks they need; call them without the writer's lock."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._jobs = threading.RLock()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Give up merges in the background, now and from now on."""
        self._cancelled.set()

    def flush(self) -> None:
        """Refresh, write what is in memory as one blob, and commit everything up to now; then keep the disk small."""
        with self._jobs:
            self._flush()
            try:
                while merging.bloated(self._candidates(HOT)) and self.merge_once():
                    pass
            except StorageError as error:  # what was to be flushed is flushed
                warnings.warn(f"quidditch: a merge after a flush failed: {error}", RuntimeWarning, stacklevel=3)

    def flush_log(self, share: float) -> None:
        """Flush if the log is as long as that, for the first of those who find it so."""
        with self._jobs:
            if self._writer.log_fills(share):
                self.flush()

    def _flush(self) -> None:
        writer = self._writer
        heir: Holding | None = None
        with self._jobs:
            with writer.lock:
                writer.check()
                writer.refresh()
                if not writer.uncommitted:
                    return
                through = writer.next_seq_no - 1
                generation = writer.log.rotate()
                mapping, settings = writer.mapping.to_dict(), writer.settings.to_dict()
                memory = [holding for holding in writer.holdings if holding.entry is None]
                masks = {holding: holding.live for holding in writer.holdings}
                for holding in memory:
                    holding.busy = True
                writer.uncommitted = False
            try:
                heir, merged = self._rewritten(memory, masks)
                changed = [h for h, mask in masks.items() if h.entry is not None and mask is not h.committed]
                entries = {holding: self._masked(holding, masks[holding]) for holding in changed}
                with self._all_or_failure():
                    self._replace(memory, heir, merged, masks)
                    for holding, entry in entries.items():
                        holding.entry, holding.committed = entry, masks[holding]
                    writer.holdings = [h for h in writer.holdings if h.entry is None or h.entry.live_docs]
                    self._commit(through, generation, mapping, settings)
                    writer.tombstones = {id: v for id, v in writer.tombstones.items() if v.seq_no > through}
                    writer.publish()
                writer.log.trim(generation)
                self._collect_garbage()
            except BaseException as error:
                with writer.lock:
                    writer.uncommitted = True
                self._note(error, heir)
                raise
            finally:
                for holding in memory:
                    holding.busy = False

    def merge(self, max_segments: int) -> None:
        """Flush, then merge neighbours until at most ``max_segments`` remain, without deleted documents."""
        with self._jobs:
            self._flush()
            while True:
                disk = self._on_disk()
                if len(disk) > max_segments:
                    width = len(disk) - max_segments + 1
                    start = min(range(max_segments), key=lambda at: sum(h.bytes for h in disk[at : at + width]))
                    self._merge(disk[start : start + width])
                elif full := [holding for holding in disk if holding.committed is not None]:
                    self._merge(full[:1])
                else:
                    return

    def merge_as_asked(self, *, rest: bool) -> None:
        """Merge as long as the policy asks for it; with ``rest`` in the background. Raises MergeCancelled."""
        while self.merge_once(_Pace(self._cancelled, REST if rest else 0.0)):
            pass

    def merge_once(self, pace: Callable[[], None] = lambda: None) -> bool:
        """Do the merge that the policy asks for most; False if it asks for none."""
        with self._jobs:
            pace()
            for run in self._runs():
                chosen = merging.select([candidate(number, holding) for number, holding in enumerate(run)])
                if chosen:
                    self._merge([run[i] for i in chosen], pace)
                    return True
            return False

    def _runs(self) -> list[list[Holding]]:
        """Neighbours on disk that are in one tier; what is in the cold one merges only when somebody asks for it."""
        runs = itertools.groupby(self._on_disk(), key=_tier)
        return [list(run) for tier, run in runs if tier != COLD]

    def _candidates(self, tier: str) -> list[merging.Candidate]:
        mine = [holding for holding in self._on_disk() if _tier(holding) == tier]
        return [candidate(number, holding) for number, holding in enumerate(mine)]

    # Tiers

    def placed(self) -> list[Placed]:
        """The segments on disk as the tiers' policy sees them."""
        self._writer.published.view.note_use()
        now, moment = time.time(), time.perf_counter()
        return [Placed(holding.entry.name, holding.entry.tier, holding.entry.size,
                       max(0.0, now - holding.entry.created_ms / 1000), moment - self._used(holding))
                for holding in self._on_disk() if holding.entry is not None]

    def _used(self, holding: Holding) -> float:
        assert holding.segment is not None
        used: float = holding.segment.cache.get("used", 0.0)
        return used

    def move(self, names: Sequence[str], to: str) -> list[str]:
        """Move segments to a tier, one after another; those that moved. NotFoundError for one that is not there."""
        moved = []
        with self._jobs:
            there = {holding.entry.name: holding for holding in self._on_disk() if holding.entry is not None}
            for name in names:
                if name not in there:
                    raise NotFoundError("no such segment on disk", path=name, fix="see index.segments()")
            for name in names:
                if _tier(there[name]) != to:
                    self._move(there[name], to)
                    moved.append(name)
        return moved

    def _move(self, holding: Holding, to: str) -> None:
        """Copy, verify, publish; then the source goes, as all garbage does, once no reader holds it."""
        writer, entry = self._writer, holding.entry
        assert entry is not None
        with writer.lock:
            keys = self._name("keys") if to == COLD else ""
        copied = None
        try:
            copied = store.copy(writer.places, entry, to, keys)
            segment = store.open_segment(writer.places, copied)
            writer.places.tier(to).sync()
            with self._all_or_failure():
                segment.cache["used"] = self._used(holding)
                holding.entry, holding.segment = copied, segment
                now = writer.manifest
                self._commit(now.max_seq_no, now.log_generation, now.mapping, now.settings)
                writer.publish()
        except BaseException as error:
            self._note(error, None)
            if writer.failure is None:
                store.discard(writer.places, (to, entry.name), *([(HOT, keys)] if keys else []))
            raise
        self._collect_garbage()

    def sweep(self) -> None:
        """Remove what dead writers, and calls to stores that failed, left in tiers that are not of this machine."""
        writer = self._writer
        with self._jobs:
            if not writer.swept:
                writer.check()
                manifests.sweep(writer.files, writer.directory, writer.places.all, writer.manifest)
                writer.swept = True

    def _on_disk(self) -> list[Holding]:
        with self._writer.lock:
            self._writer.check()
            return [holding for holding in self._writer.holdings if holding.entry is not None]

    def _merge(self, group: Sequence[Holding], pace: Callable[[], None] = lambda: None) -> None:
        """Rewrite segments on disk as one, without what was deleted when the manifest was committed."""
        writer = self._writer
        masks = {holding: holding.committed for holding in group}
        heir: Holding | None = None
        try:
            heir, merged = self._rewritten(group, masks, pace)
            with self._all_or_failure():
                self._replace(group, heir, merged, masks)
                now = writer.manifest
                self._commit(now.max_seq_no, now.log_generation, now.mapping, now.settings)
                writer.publish()
            name = os.path.basename(writer.directory)
            metrics.MERGES.labels(name).add()
            metrics.MERGED_DOCS.labels(name).add(merged.segment.docs if merged is not None else 0)
            self._collect_garbage()
        except BaseException as error:
            self._note(error, heir)
            raise

    @contextmanager
    def _all_or_failure(self) -> Iterator[None]:
        """The writer's lock, for steps after some of which the next commit would be a lie: then there is none."""
        with self._writer.lock:
            try:
                yield
            except BaseException as error:
                self._writer.failure = error
                raise

    def _note(self, error: BaseException, heir: Holding | None) -> None:
        """Draw the consequences of an error: refuse all further writes, or leave nothing behind."""
        writer = self._writer
        if isinstance(error, StoreError):
            writer.swept = False  # it may have done what it says it has not
        if isinstance(error, StorageError) and error.action.startswith("sync"):
            writer.failure = error  # nothing is known of the file, and nothing will be by syncing it again
        if heir is not None and heir.entry is not None and writer.failure is None and heir not in writer.holdings:
            with suppress(StorageError):
                # A full disk must not fill up with what a flush left.
                writer.places.tier(heir.entry.tier).delete(heir.entry.name)

    def _rewritten(
        self, group: Sequence[Holding], masks: dict[Holding, Bitmap | None], pace: Callable[[], None] = lambda: None,
    ) -> tuple[Holding | None, merging.Merged | None]:
        """The group as one new segment on disk, under its masks. The writer's lock is not held."""
        if not group:
            return None, None
        writer = self._writer
        sources = [holding.source(masks[holding]) for holding in group]
        if not any(source.live_docs for source in sources):
            return None, None
        tier = min(map(_tier, group), key=writer.places.names.index)
        sort = writer.settings.sort
        with writer.lock:
            known = writer.learned(self._codec(tier))
        if len(sources) == 1 and sources[0].live is None and sources[0].segment.sort == sort:
            whole = sources[0].segment  # nothing to leave out: the segment goes to disk as it is
            merged = merging.Merged(whole, [np.arange(whole.docs, dtype=np.int32)])
        else:
            merged = merging.merge(sources, pace, codec_named(self._codec(tier)), writer.threads, sort, known)
        pace()
        with writer.lock:
            name, keys = self._name("seg"), self._name("keys") if tier == COLD else ""
        entry = store.write_segment(writer.places, tier, name, merged.segment, self._codec(tier), keys,
                                    writer.threads, known)
        return Holding(segment=store.open_segment(writer.places, entry), entry=entry, visible=True), merged

    def _codec(self, tier: str) -> str:
        return "diagon_best_compression" if tier == COLD else self._writer.settings.codec

    def _replace(
        self, group: Sequence[Holding], heir: Holding | None, merged: merging.Merged | None,
        masks: dict[Holding, Bitmap | None],
    ) -> None:
        """Put ``heir`` where the group stood; neighbours stay neighbours, so positions stay in order."""
        if not group:
            return
        holdings = self._writer.holdings
        at = holdings.index(group[0])
        if heir is not None and merged is not None:
            for holding, numbers in zip(group, merged.maps, strict=True):
                holding.hand_over(heir, masks[holding], numbers)
        holdings[at : at + len(group)] = [heir] if heir is not None else []

    def _masked(self, holding: Holding, mask: Bitmap | None) -> manifests.SegmentEntry:
        """The holding's manifest entry with a new live mask, written now."""
        assert holding.entry is not None
        assert holding.segment is not None
        assert mask is not None
        live_docs = merging.Source(holding.segment, mask).live_docs
        if live_docs == 0:
            return msgspec.structs.replace(holding.entry, live=None, live_docs=0)
        with self._writer.lock:
            name = self._name("live")
        written = store.write_live(self._writer.tier, name, mask, holding.segment.docs)
        return msgspec.structs.replace(holding.entry, live=written, live_docs=live_docs)

    def _name(self, kind: str) -> str:
        writer = self._writer
        writer.next_blob += 1
        return f"{kind}-{writer.next_blob - 1:012d}"

    def _commit(
        self, through: int, log_generation: int, mapping: dict[str, object], settings: dict[str, object],
    ) -> None:
        """Make the names of blobs durable, then a manifest of the holdings. The writer's lock is held."""
        writer = self._writer
        old = writer.manifest
        for tier in writer.places.local:
            tier.sync()
        writer.write_lock.assert_intact()
        manifest = msgspec.structs.replace(
            old, generation=old.generation + 1, mapping=mapping,
            mapping_version=old.mapping_version + (mapping != old.mapping), settings=settings,
            max_seq_no=through, log_generation=log_generation, next_blob=writer.next_blob,
            committed_ms=time.time_ns() // 1_000_000,
            tiers=writer.places.tiers.to_dict() if writer.places.names[1:] else {},
            segments=tuple(holding.entry for holding in writer.holdings if holding.entry is not None))
        manifests.commit(writer.files, writer.directory, manifest)
        writer.manifest = manifest

    def _collect_garbage(self) -> None:
        writer = self._writer
        try:
            manifests.collect_garbage(writer.files, writer.directory, writer.places.all, writer.manifest)
        except StoreError as error:  # what was done is done; a sweep will remove the rest
            writer.swept = False
            warnings.warn(f"quidditch: removing what is not needed any more failed: {error}", RuntimeWarning,
                          stacklevel=3)


def _tier(holding: Holding) -> str:
    return HOT if holding.entry is None else holding.entry.tier


class _Pace:
    """Rests for a share of the time that passed since it was last called; raises once cancelled."""

    def __init__(self, cancelled: threading.Event, rest: float) -> None:
        self._cancelled, self._rest = cancelled, rest
        self._since = time.monotonic()

    def __call__(self) -> None:
        worked = time.monotonic() - self._since
        if self._cancelled.wait(min(1.0, worked * self._rest / (1 - self._rest))):
            raise MergeCancelled
        self._since = time.monotonic()
