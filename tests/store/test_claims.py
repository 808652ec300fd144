from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from featstore.errors import FeatstoreError, Notice
from featstore.store import claims as module
from featstore.store.claims import COMPACTION, Claim, Claims, work_folder
from featstore.store.owners import Owner, this_process


@pytest.fixture
def claims(tmp_path):
    with Claims(tmp_path) as made:
        yield made


def forge(store, unit, **record):
    """Write a claim file as another process would: the entries of this process, with those in ``record`` changed."""
    directory = work_folder(store, unit)
    directory.mkdir(parents=True, exist_ok=True)
    me = this_process()
    (directory / "claim.0").write_bytes(module._encode({**me, "beat": 1, **record}))


def test_claiming_a_unit_that_another_process_claimed_returns_the_other_process(claims, tmp_path):
    assert isinstance(claims.take(3), Claim)
    with Claims(tmp_path) as other:
        owner = other.take(3)
        assert isinstance(owner, Owner)
        assert str(owner) == f"process {os.getpid()} on {this_process()['host']}"
        assert isinstance(other.take(4), Claim)


def test_exactly_one_of_many_concurrent_claims_of_a_unit_succeeds(tmp_path):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Claims(tmp_path) as made:
            for unit in range(20):
                barrier = threading.Barrier(8)

                def take(unit=unit, barrier=barrier):
                    barrier.wait()
                    return made.take(unit)

                with ThreadPoolExecutor(8) as pool:
                    results = [future.result() for future in [pool.submit(take) for _ in range(8)]]
                assert sum(isinstance(result, Claim) for result in results) == 1
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(("where", "step"), [(module.folders, "names"), (Claims, "holder")])
def test_claiming_a_unit_fails_if_another_process_claims_it_meanwhile(tmp_path, monkeypatch, where, step):
    original = getattr(where, step)
    with Claims(tmp_path) as late, Claims(tmp_path) as early:

        def look_then_claim(*arguments, **options):
            monkeypatch.setattr(where, step, original)
            found = original(*arguments, **options)
            early.take(0)
            return found

        monkeypatch.setattr(where, step, look_then_claim)
        assert isinstance(late.take(0), Owner)


def test_released_unit_can_be_claimed_at_once_and_keeps_its_journals(claims, tmp_path):
    first = claims.take(0)
    first.journal.write_bytes(b"x")
    claims.release(0)
    second = claims.take(0)
    assert (second.number, second.journals()) == (1, [first.journal])
    first.beat()
    assert json.loads(first.path.read_bytes())["released"]


def test_claim_of_a_unit_by_a_dead_local_process_is_taken_over(claims, tmp_path):
    code = f"""
import os
from pathlib import Path
from featstore.store.claims import Claims
Claims(Path({str(tmp_path)!r})).take(0)
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert claims.take(0).number == 1


@pytest.mark.parametrize("change", [{"boot": "another"}, {"started": "1"}, {"pid": 999999999}])
def test_claim_of_a_unit_ends_with_a_reboot_or_reuse_of_its_process_id(claims, tmp_path, change):
    forge(tmp_path, 0, **change)
    assert claims.take(0).number == 1


def test_claim_of_a_unit_by_another_host_holds_while_its_heartbeat_advances(tmp_path):
    with Claims(tmp_path, lease_seconds=0.3) as made:
        for beat in range(4):
            forge(tmp_path, 0, host="elsewhere", beat=beat)
            assert isinstance(made.take(0), Owner)
            time.sleep(0.15)
        time.sleep(0.3)
        assert made.take(0).number == 1


def test_claims_of_units_expire_by_monotonic_time_not_by_wall_clock(tmp_path, monkeypatch):
    with Claims(tmp_path, lease_seconds=0.2) as made:
        forge(tmp_path, 0, host="elsewhere", since=time.time() + 1e6)
        assert isinstance(made.take(0), Owner)
        monkeypatch.setattr(time, "time", lambda: 0.0)
        time.sleep(0.25)
        assert isinstance(made.take(0), Claim)


def test_heartbeat_of_a_claim_of_a_unit_is_written_regularly(tmp_path):
    with Claims(tmp_path, heartbeat_seconds=0.05) as made:
        claim = made.take(0)
        time.sleep(0.4)
        assert json.loads(claim.path.read_bytes())["beat"] >= 3
        claim.beat()
        assert len(claim.path.read_bytes()) == 512


def test_finishing_a_claimed_unit_removes_its_work_folder(claims, tmp_path):
    claims.take(0)
    claims.finish(0)
    assert not work_folder(tmp_path, 0).exists()
    assert claims.take(0).number == 0


def test_compaction_and_writers_exclude_each_other(tmp_path):
    with Claims(tmp_path) as writer:
        writer.join()
        with Claims(tmp_path) as compaction, pytest.raises(FeatstoreError, match="is being written by process"):
            compaction.exclusive()
    with Claims(tmp_path) as compaction:
        compaction.exclusive()
        with Claims(tmp_path) as writer, pytest.raises(FeatstoreError, match="is being compacted by process"):
            writer.join()
    with Claims(tmp_path) as writer:
        writer.join()
        writer.take(1)
    assert os.listdir(tmp_path / "work") == [work_folder(tmp_path, 1).name]


def test_new_writer_removes_claims_left_by_dead_processes(claims, tmp_path):
    forge(tmp_path, "session-0123456789abcdef", boot="another")
    claims.join()
    assert not work_folder(tmp_path, "session-0123456789abcdef").exists()


def test_claim_of_a_unit_counts_as_ended_if_its_owner_finishes_meanwhile(tmp_path, monkeypatch):
    with Claims(tmp_path) as late, Claims(tmp_path) as early:
        early.take(0)
        last_claim = module._last_claim

        def finished_meanwhile(directory):
            found = last_claim(directory)
            early.finish(0)
            return found

        monkeypatch.setattr(module, "_last_claim", finished_meanwhile)
        assert late.holder(0) is None


def test_unit_can_be_claimed_after_a_competing_claim_ended(tmp_path, monkeypatch):
    write = module.atomic.write_bytes
    with Claims(tmp_path) as late, Claims(tmp_path) as early:

        def another_first(path, data, *, exclusive):
            monkeypatch.setattr(module.atomic, "write_bytes", write)
            early.take(0)
            early.finish(0)
            raise FileExistsError(path)

        monkeypatch.setattr(module.atomic, "write_bytes", another_first)
        assert isinstance(late.take(0), Claim)


def test_half_written_claim_of_a_unit_is_read_a_second_time(claims, tmp_path, monkeypatch):
    claim, read = claims.take(0), module.atomic.read_small
    torn = [claim.path.read_bytes()[:40]]
    monkeypatch.setattr(module.atomic, "read_small", lambda *a, **k: torn.pop() if torn else read(*a, **k))
    assert claims.holder(0).record["pid"] == os.getpid()


def test_unreadable_claim_file_is_described_by_its_name(claims, tmp_path):
    path = work_folder(tmp_path, COMPACTION) / "claim.0"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"[]")
    assert str(path) in str(claims.holder(COMPACTION))


@pytest.mark.parametrize("verb", ["join", "exclusive"])
@pytest.mark.parametrize("work", ["compaction", "session-0123456789abcdef"])
def test_claim_of_a_unit_by_a_crashed_host_ends_after_the_lease(tmp_path, verb, work):
    forge(tmp_path, work, host="elsewhere")
    (work_folder(tmp_path, "compaction")).mkdir(exist_ok=True)
    (work_folder(tmp_path, "compaction") / "claim.1").write_bytes(b"torn") if work == "compaction" else None
    with Claims(tmp_path, lease_seconds=0.3) as made:
        getattr(made, verb)()
        assert made._session is not None


def test_compaction_is_refused_by_a_live_writer_on_another_host(tmp_path):
    with Claims(tmp_path, lease_seconds=60) as made:
        beats = iter(range(1000))
        timer = threading.Event()

        def beat():
            while not timer.wait(0.1):
                forge(tmp_path, "session-0123456789abcdef", host="elsewhere", beat=next(beats))

        forge(tmp_path, "session-0123456789abcdef", host="elsewhere", beat=-1)
        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with pytest.raises(FeatstoreError, match="is being written by process .* on elsewhere"):
                made.exclusive()
        finally:
            timer.set()
            thread.join()


def test_process_that_waits_long_for_another_writer_prints_the_remedy(tmp_path):
    forge(tmp_path, "session-0123456789abcdef", host="elsewhere")
    with (
        Claims(tmp_path, lease_seconds=1.0, heartbeat_seconds=0.2) as made,
        pytest.warns(Notice, match="on elsewhere, which may be dead; waiting 1 s .* delete .*claim.0"),
    ):
        made.exclusive()


def test_writer_and_compaction_never_start_together(tmp_path, monkeypatch):
    with Claims(tmp_path) as writer, Claims(tmp_path) as compaction:
        take, refused = Claims.take, []

        def both(self, work):
            claim = take(self, work)
            if self is compaction and work == COMPACTION:
                monkeypatch.setattr(Claims, "take", take)
                thread.start()
                while not list(tmp_path.glob("work/session-*/claim.*")):
                    pass
            return claim

        def join():
            try:
                writer.join()
            except FeatstoreError as error:
                refused.append(error)

        thread = threading.Thread(target=join)
        monkeypatch.setattr(Claims, "take", both)
        with pytest.raises(FeatstoreError, match="is being written by process"):
            compaction.exclusive()
        thread.join()
        assert refused == []
