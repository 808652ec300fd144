"""Pictures that make the decoder crash, hang or exhaust memory become failures; all other pictures are extracted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from featstore.decode import Preprocessing
from featstore.embed.pipeline import CLOCK
from featstore.embed.progress import Progress
from featstore.errors import FeatstoreError, UsageError
from featstore.processes.in_hand import DECODING, READING, Held, InHand
from featstore.stages.extract import ExtractOptions, extract_supervised
from featstore.stages.extract.supervisor import _Stall
from featstore.stages.extract.suspects import verdict_on
from featstore.store import FeatureStore
from featstore.store.culprits import read_culprits, write_culprit
from tests.made import extract, tiny_backbone, write_pictures

BACKBONE, DECODER = "tests.faults.planted:backbone", "tests.faults.planted:decode"


@pytest.mark.slow
def test_pictures_that_crash_the_decoder_become_failures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pictures = write_pictures(tmp_path / "pictures", [f"{number:02d}.png" for number in range(12)])
    for name, mark in (("00x", b"DIE"), ("00z", b"EAT")):
        (pictures / f"{name}.jpg").write_bytes(mark)
    extract(pictures, tmp_path / "plain", backbone=tiny_backbone(), batch=4, unit_rows=6, workers=2)
    told: list[Progress] = []
    report = extract_supervised(
        pictures,
        tmp_path / "store",
        ExtractOptions(batch=4, unit_rows=6, workers=4, max_memory=1 << 30),
        progress=told.append,
        backbone_from=BACKBONE,
        decoder=DECODER,
    )
    store, plain = FeatureStore.open(tmp_path / "store"), FeatureStore.open(tmp_path / "plain")
    assert {key: failure.reason for key, failure in store.failures()} == {
        "00x.jpg": "decoder-died",
        "00z.jpg": "out-of-memory",
    }
    assert (report.images, report.vectors, report.failures, report.pending) == (14, 12, 2, 0)
    assert (report.new_vectors, report.new_failures, report.change.added) == (12, 2, 14)
    assert sum(report.reasons.values()) == 2
    assert report.restarts == 1
    # The timings of the run include the time of worker processes that died.
    assert sum(report.timings[name] for name in CLOCK) == pytest.approx(report.seconds, abs=0.02)
    assert min(report.timings["restarts"], report.timings["startup"]) > 0
    assert told[-1].done == told[-1].total == 14
    assert list(store.keys) == list(plain.keys)
    assert store.features().tobytes() == plain.features().tobytes()
    assert not list((tmp_path / "store" / "work").iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mark", "reason"),
    [(b"LOOP", "decoder-stalled"), (b"EXIT", "decoder-died"), (b"EAT", "out-of-memory"), (b"no picture", None)],
)
def test_picture_suspected_of_a_crash_is_decoded_alone_to_find_the_reason(
    tmp_path: Path, mark: bytes, reason: str | None
) -> None:
    (tmp_path / "x.jpg").write_bytes(mark)
    picture = {
        "root": str(tmp_path),
        "location": "x.jpg",
        "offset": -1,
        "size": -1,
        "preprocessing": Preprocessing(18, 16).to_dict(),
        "max_pixels": 1 << 20,
        "max_bytes": 1 << 20,
        "decoder": DECODER,
    }
    verdict = verdict_on(picture, 1.0, 1 << 30)
    assert (verdict and verdict[0]) == reason


@pytest.mark.slow
def test_supervisor_restarts_a_dead_worker_once_without_a_suspected_picture(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", ["a.png"])
    with pytest.raises(FeatstoreError, match=r"SIGKILL.*twice without progress, and no picture explains it"):
        extract_supervised(pictures, tmp_path / "store", backbone_from="tests.faults.planted:die_always")


def test_supervisor_raises_errors_of_the_worker_unchanged(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        extract_supervised(tmp_path / "missing", tmp_path / "store")
    with pytest.raises(FeatstoreError, match="not of the form"):
        extract_supervised(tmp_path, tmp_path / "store", decoder="os; import x")


@pytest.mark.slow
def test_stopped_worker_ends_and_the_next_extraction_resumes(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", [f"{number:02d}.png" for number in range(40)])
    stop = threading.Event()

    def after_some(progress: Progress) -> None:
        if progress.done >= 4:
            stop.set()

    report = extract_supervised(
        pictures,
        tmp_path / "store",
        ExtractOptions(batch=2, unit_rows=10),
        progress=after_some,
        stop=stop,
        decoder="tests.faults.planted:slow",
        backbone_from=BACKBONE,
    )
    assert report.stopped
    assert 4 <= report.vectors + report.pending <= 40
    assert report.pending > 0
    extract(pictures, tmp_path / "store", backbone=tiny_backbone(), batch=2)
    extract(pictures, tmp_path / "plain", backbone=tiny_backbone(), batch=2, unit_rows=10)
    store, plain = FeatureStore.open(tmp_path / "store"), FeatureStore.open(tmp_path / "plain")
    assert store.features().tobytes() == plain.features().tobytes()


@pytest.mark.slow
def test_worker_ends_if_its_supervisor_is_killed(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", [f"{number:02d}.png" for number in range(40)])
    code = (
        "import sys\nfrom featstore.stages.extract import extract_supervised\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "from featstore.stages.extract.options import ExtractOptions\n"
        f"extract_supervised({str(pictures)!r}, {str(tmp_path / 'store')!r}, "
        "ExtractOptions(batch=2, workers=1, unit_rows=40), "
        f"backbone_from={BACKBONE!r}, decoder='tests.faults.planted:slow', progress=lambda p: print(p.done, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 4:
        pass
    workers = _children(process.pid)
    assert len(workers) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while _alive(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(workers[0])
    report = extract(pictures, tmp_path / "store", backbone=tiny_backbone(), batch=2)
    assert (report.images, report.vectors, report.pending) == (40, 40, 0)
    assert report.new_vectors < 40


def _children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_supervisor_can_read_which_rows_a_worker_reads_and_decodes() -> None:
    worker = InHand.create(3)
    watcher = InHand(os.dup(worker.handle))
    assert watcher.held() == [None, None, None]
    worker.hold(1 << 40, 7, READING)
    thread = threading.Thread(target=lambda: worker.hold(2, 8, DECODING))
    thread.start()
    thread.join()
    assert watcher.held() == [Held(1 << 40, 7, READING), Held(2, 8, DECODING), None]
    worker.free()
    assert watcher.held()[0] is None
    before = watcher.progress()
    worker.tick()
    assert before[0] is False
    assert watcher.progress()[0] is True
    assert watcher.progress()[1] != before[1]
    worker.close()
    watcher.close()


def test_worker_counts_as_stalled_without_progress_or_with_a_slow_picture() -> None:
    memory = InHand.create(1)
    stall = _Stall(memory, 0.05)
    assert not stall.seen()
    time.sleep(0.1)
    assert not stall.seen()
    memory.tick()
    assert not stall.seen()
    time.sleep(0.1)
    assert stall.seen()
    memory.tick(owed=False)
    memory.hold(1, 2, DECODING)
    assert not stall.seen()
    time.sleep(0.1)
    assert stall.seen()
    memory.free()
    assert not stall.seen()
    memory.close()


def test_damaged_records_of_pictures_that_crash_the_decoder_are_skipped(tmp_path: Path) -> None:
    write_culprit(tmp_path, 3, 5, "decoder-died", "lost")
    folder = tmp_path / "work" / f"{3:016d}"
    assert not folder.exists()
    folder.mkdir(parents=True)
    write_culprit(tmp_path, 3, 5, "decoder-died", "it died")
    (folder / "culprit.6").write_text("{}")
    (folder / "claim.0").write_text("{}")
    assert read_culprits(folder) == {5: ("decoder-died", "it died")}


def _stopped(_: str) -> list[str]:
    """Return the command of a worker that stops itself by SIGSTOP before it sends a heartbeat."""
    return [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"]


def test_worker_that_never_sends_a_heartbeat_counts_as_stalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featstore.processes.sandbox.interpreter", _stopped)
    monkeypatch.setattr("featstore.stages.extract.supervisor._HEARTBEAT_TIMEOUT", 0.5)
    started = time.monotonic()
    with pytest.raises(FeatstoreError, match="made no progress"):
        extract_supervised(tmp_path, tmp_path / "store", ExtractOptions(stall_seconds=0.5))
    assert time.monotonic() - started < 30


def test_stop_request_does_not_wait_for_a_suspended_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featstore.processes.sandbox.interpreter", _stopped)
    monkeypatch.setattr("featstore.stages.extract.supervisor._STOP_SECONDS", 0.5)
    stop = threading.Event()
    threading.Timer(1, stop.set).start()
    started = time.monotonic()
    report = extract_supervised(tmp_path, tmp_path / "store", stop=stop)
    assert time.monotonic() - started < 30
    assert (report.stopped, report.images) == (True, 0)


def test_heartbeats_of_a_worker_do_not_count_as_progress() -> None:
    memory = InHand.create(1)
    stall = _Stall(memory, 0.05)
    memory.tick()
    memory.live()
    assert not stall.seen()
    assert not stall.lifeless(0.05)
    time.sleep(0.1)
    memory.live()
    assert stall.seen()
    assert not stall.lifeless(0.05)
    time.sleep(0.1)
    assert stall.lifeless(0.05)
    memory.close()
