from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from featstore.heads.solvers import passes
from featstore.heads.solvers.losses import LOGISTIC, SQUARED_HINGE, columns
from featstore.heads.solvers.rows import Labels, prepare
from tests.heads.made_up import Streamed, blobs


def made(memory):
    features, _ = blobs(5000, 24, 3)
    labels = Labels(np.arange(5000) % 3, np.random.default_rng(0).integers(-1, 3, 5000), np.array([1.0, 2.0, 0.5]))
    return prepare(Streamed(features, 400), labels, standardize=True, memory=memory)[0]


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE], ids=lambda loss: loss.name)
@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_losses_and_gradients_do_not_depend_on_the_number_of_threads(loss, memory):
    rows = made(memory)
    problems = [passes.Problem(C, fold) for C in (0.1, 1.0) for fold in (0, 1, 2, None)]
    points = np.random.default_rng(1).standard_normal((8, columns(3), 25))
    alone = passes.evaluate(rows, loss, problems, points)
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second, ThreadPoolExecutor(1) as third:
        workers = passes.Workers([first, second, third])
        shared = [passes.evaluate(rows, loss, problems, points, workers) for _ in range(3)]
    for name in ("values", "gradients", "curvatures"):
        np.testing.assert_allclose(getattr(shared[0], name), getattr(alone, name), rtol=1e-9, atol=1e-6)
        for again in shared[1:]:
            np.testing.assert_array_equal(getattr(again, name), getattr(shared[0], name))


def test_pass_over_the_rows_raises_the_error_of_its_worker_thread():
    def fail():
        raise RuntimeError("worker")

    with ThreadPoolExecutor(1) as only, pytest.raises(RuntimeError, match="worker"):
        passes.Workers([only]).run(iter([(0, fail)]))


def test_passes_over_the_rows_use_several_threads_only_for_large_data(monkeypatch):
    rows = made(1 << 30)
    with threadpool_limits(2), passes.workers_for(rows) as workers:
        assert workers.count == 1
    monkeypatch.setattr(passes, "_WORTH_THREADS", 1)
    with threadpool_limits(2), passes.workers_for(rows) as workers:
        assert workers.count == 2


@pytest.mark.parametrize("count", [1, 2, 18, 40])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_matrix_product_in_pieces_equals_the_whole_product(count, rows):
    random = np.random.default_rng(0)
    points = random.standard_normal((count + 1, 1, 2060))
    values = random.standard_normal((rows, 2059)).astype(np.float32)
    selection = passes.Selection(list(range(1, count + 1)), points, np.dtype(np.float32))
    weights = points[1:, 0, :-1]
    decisions = selection.decide(values)
    np.testing.assert_allclose(decisions[0], weights @ values.T + points[1:, 0, -1:], atol=1e-3)
    pulled = selection.pull(decisions, values)
    np.testing.assert_allclose(pulled, decisions[0] @ values, atol=1e-5 * np.abs(pulled).max())


def test_blas_has_its_threads_again_after_fits_that_overlap_in_two_threads(monkeypatch):
    setting = [2]

    class Limits:
        """A limit of BLAS as threadpoolctl sets it: on entry for the whole process, restored on exit."""

        def __init__(self, limit, user_api):
            self.limit, self.user_api = limit, user_api

        def __enter__(self):
            self.before, setting[0] = setting[0], self.limit

        def __exit__(self, *_):
            setting[0] = self.before

    monkeypatch.setattr("featstore.heads.solvers.threads.threadpool_limits", Limits)
    first, second = passes.few_threads(1, 1), passes.few_threads(1, 1)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(first.__enter__).result()
        other.submit(second.__enter__).result()
        assert setting == [1]
        one.submit(first.__exit__, None, None, None).result()
        other.submit(second.__exit__, None, None, None).result()
    assert setting == [2]
