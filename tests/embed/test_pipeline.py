from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from featstore.embed.pipeline import NOT_FINITE, Batch, Done, Loaded, Timings, one_by_one, run
from featstore.engines.base import Finished

F4 = np.dtype("<f4")


class Means:
    """An engine whose vector of a picture is the mean of each colour channel."""

    dimension = 3
    in_flight = 1

    def __init__(self):
        self.shapes = []

    def submit(self, pictures):
        return Finished(self(pictures))

    def __call__(self, pictures):
        self.shapes.append(pictures.shape)
        return pictures.mean(axis=(1, 2), dtype=np.float32)


def load(target, row):
    if row in target:
        return Loaded(None, bytes([row]) * 32, "corrupt", f"row {row}")
    return Loaded(np.full((2, 2, 3), row, np.uint8), bytes([row]) * 32)


def drive(batches, *, load=load, engine=None, write=None, **options):
    done: list[Done] = []
    timings = Timings()
    settings = {"dtype": F4, "threads": 3, "ahead": 2, **options}
    run(iter(batches), one_by_one(load), engine or Means(), write or done.append, timings=timings, **settings)
    return done, timings


def test_batches_are_written_in_order_with_their_failures():
    batches = [Batch({2, 5}, start, start + 3, start == 9) for start in range(0, 12, 3)]
    done, timings = drive(batches)
    assert [each.batch for each in done] == batches
    assert [each.failures for each in done] == [[(2, "corrupt", "row 2")], [(5, "corrupt", "row 5")], [], []]
    assert [each.vectors[:, 0].tolist() for each in done] == [[0, 1], [3, 4], [6, 7, 8], [9, 10, 11]]
    assert done[1].sha256.tolist() == [[row] * 32 for row in (3, 4, 5)]
    assert timings.forwarded == 10


def test_batch_with_a_failed_picture_has_the_shape_of_other_batches():
    engine = Means()
    drive([Batch({1}, 0, 4, True)], engine=engine)
    assert engine.shapes == [(4, 2, 2, 3)]


def test_network_is_not_run_on_a_batch_without_readable_pictures():
    engine = Means()
    done, _ = drive([Batch({0, 1}, 0, 2, False), Batch(set(), 2, 2, True)], engine=engine)
    assert engine.shapes == []
    assert [each.vectors.shape for each in done] == [(0, 3), (0, 3)]


def test_picture_with_a_non_finite_vector_is_a_failure():
    class Bad(Means):
        def __call__(self, pictures):
            vectors = super().__call__(pictures)
            vectors[1, 2] = np.nan
            vectors[2, 0] = 1e6
            return vectors

    done, _ = drive([Batch(set(), 0, 3, True)], engine=Bad(), dtype=np.dtype("<f2"))
    assert [(row, reason) for row, reason, _ in done[0].failures] == [(1, NOT_FINITE), (2, NOT_FINITE)]
    assert done[0].vectors.tolist() == [[0, 0, 0]]


def test_number_of_pictures_in_memory_is_bounded():
    held = most = 0
    lock = threading.Lock()

    def counting(target, row):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return load(target, row)

    def write(done):
        nonlocal held
        time.sleep(0.002)
        with lock:
            held -= done.batch.stop - done.batch.start

    drive([Batch(set(), start % 200, start % 200 + 4, False) for start in range(0, 400, 4)], load=counting, write=write)
    # At most seven batches of 4 pictures: 2 decoded ahead, 1 being loaded, 1 in the network, 2 waiting to be written,
    # 1 being written.
    assert most <= 28


def test_batches_overlap_in_an_asynchronous_engine():
    class Background(Means):
        in_flight = 3

        def __init__(self):
            super().__init__()
            self.pending = self.most = 0

        def submit(self, pictures):
            self.pending += 1
            self.most = max(self.most, self.pending)
            return Result(self, pictures)

    class Result:
        def __init__(self, engine, pictures):
            self.engine, self.pictures = engine, pictures

        def done(self):
            return False

        def result(self):
            self.engine.pending -= 1
            return self.engine(self.pictures)

    engine = Background()
    batches = [Batch({7}, start, start + 2, start == 18) for start in range(0, 20, 2)]
    done, _ = drive(batches, engine=engine)
    assert engine.most == 3
    assert [each.batch for each in done] == batches
    assert [row for each in done for row in each.vectors[:, 0].tolist()] == [row for row in range(20) if row != 7]


def test_extraction_pipeline_writes_earlier_batches_when_the_batch_iterator_yields_the_value_none():
    written = []

    def batches():
        yield Batch(set(), 0, 2, False)
        yield None
        assert written == [0]
        yield Batch(set(), 2, 4, True)

    drive(batches(), write=lambda done: written.append(done.batch.start))
    assert written == [0, 2]


@pytest.mark.parametrize("where", ["load", "engine", "write"])
def test_error_in_any_pipeline_stage_ends_the_extraction(where):
    def fail(*_):
        raise OSError(28, "No space left on device")

    parts = {"load": load, "engine": Means(), "write": lambda done: None, where: fail}
    fail.dimension, fail.in_flight, fail.submit = 3, 1, fail
    with pytest.raises(OSError, match="No space left"):
        drive([Batch(set(), start, start + 2, False) for start in range(0, 40, 2)], **parts)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("featstore-")]


@pytest.mark.parametrize(("finished", "counted"), [(True, "waiting"), (False, "forward")])
def test_waiting_time_counts_only_while_the_network_is_idle(finished, counted):
    class Behind(Means):
        """An asynchronous engine; ``done()`` of every submitted batch returns ``finished``."""

        in_flight = 2

        def submit(self, pictures):
            return SimpleNamespace(result=Finished(self(pictures)).result, done=lambda: finished)

    class Recorded(Timings):
        """Timings that record whether each wait after the first submitted batch counts as "waiting" or "forward"."""

        sent, names = False, ()

        def add(self, **seconds):
            super().add(**seconds)
            self.sent = self.sent or "copy" in seconds
            if self.sent and set(seconds) <= {"waiting", "forward"}:
                self.names += tuple(seconds)
                waited.set()

    waited, timings = threading.Event(), Recorded()

    def late(target, row):
        assert row < 4 or waited.wait(60)
        return load(target, row)

    batches = iter([Batch(set(), 0, 4, False), Batch(set(), 4, 8, True)])
    run(batches, one_by_one(late), Behind(), lambda done: None, dtype=F4, threads=1, ahead=1, timings=timings)
    assert set(timings.names) == {counted}
