"""The multilayer perceptron: its training equals plain PyTorch, balances classes, stops early and refuses bad input."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import average_precision_score

from featstore.errors import DataError, UsageError
from featstore.heads import MLPHead, train_head
from featstore.heads.solvers.perceptron import Network, Plan, Targets, train
from tests.heads.estimators.test_one_vs_rest import tagged
from tests.heads.made_up import Streamed, blobs


def plan(**changes: Any) -> Plan:
    chosen = {
        "hidden": (16,),
        "outputs": 3,
        "dropout": 0.0,
        "epochs": 12,
        "patience": 12,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "batch_size": 32,
    }
    return Plan(**{**chosen, **changes})


def normal(rows: int, classes: int = 3, dimension: int = 10) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return standardised features and class numbers."""
    X, y = blobs(rows, dimension, classes, seed=5, apart=0.6)
    return ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32), np.unique(y, return_inverse=True)[1]


def orders(rows: int, epochs: int) -> list[NDArray[np.intp]]:
    return [np.random.default_rng(epoch).permutation(rows) for epoch in range(epochs)]


def plainly(X: Any, targets: Targets, order: list[NDArray[np.intp]], wanted: Plan, seed: int) -> torch.nn.Sequential:
    """Train the network described by the Plan ``wanted`` in a plain PyTorch loop without dropout."""
    random = np.random.default_rng(seed)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise([X.shape[1], *wanted.hidden, wanted.outputs]):
        layer, bound = torch.nn.Linear(inputs, outputs), 1 / np.sqrt(inputs)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(random.uniform(-bound, bound, (outputs, inputs))))
            layer.bias.copy_(torch.from_numpy(random.uniform(-bound, bound, outputs)))
        layers += [layer, torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    options = {"lr": wanted.learning_rate, "weight_decay": wanted.weight_decay}
    optimiser = torch.optim.AdamW(network.parameters(), **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, wanted.epochs)
    having = None if targets.label_weights is None else torch.from_numpy(targets.label_weights[1])
    sigmoid = torch.nn.BCEWithLogitsLoss(reduction="none", pos_weight=having)
    softmax = torch.nn.CrossEntropyLoss(reduction="none")
    for rows in order:
        for batch in np.array_split(rows, max(-(-len(rows) // wanted.batch_size), min(8, len(rows) // 8))):
            outputs, truth = network(torch.from_numpy(X[batch])), torch.from_numpy(targets.codes[batch])
            if wanted.sets:
                losses = sigmoid(outputs, truth.float()).mean(dim=1)
            else:
                losses = sigmoid(outputs[:, 0], truth.float()) if wanted.outputs == 1 else softmax(outputs, truth)
            optimiser.zero_grad()
            (losses * torch.from_numpy(targets.weights[batch])).mean().backward()
            optimiser.step()
        schedule.step()
    return network


@pytest.mark.parametrize(("hidden", "outputs", "classes"), [((16,), 3, 3), ((12, 8), 2, 2), ((16,), 1, 2)])
def test_mlp_training_equals_a_plain_pytorch_loop(hidden, outputs, classes):
    X, codes = normal(200, classes)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, len(codes)).astype(np.float32)
    targets = Targets(codes, weights, np.empty(0, np.intp))
    wanted = plan(hidden=hidden, outputs=outputs)
    order = iter(orders(200, wanted.epochs))
    trained = train(X, targets, lambda _: next(order), wanted, seed=3)
    plain = plainly(X, targets, orders(200, wanted.epochs), wanted, seed=3)
    expected = [one.detach().numpy() for one in plain.parameters()]
    if outputs == 2:
        expected[-2:] = [expected[-2][1:] - expected[-2][:1], expected[-1][1:] - expected[-1][:1]]
    found = [one for pair in zip(trained.weights, trained.biases, strict=True) for one in pair]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("having", [None, [3.0, 0.5]])
def test_mlp_training_on_label_sets_equals_a_plain_pytorch_loop(having):
    X, codes = normal(200, 3)
    sets = np.stack([codes == 0, codes != 1], axis=1).astype(np.uint8)
    factors = None if having is None else np.array([[1.0, 1.0], having], np.float32)
    targets = Targets(sets, np.ones(200, np.float32), np.empty(0, np.intp), factors)
    wanted = plan(outputs=2, sets=True)
    order = iter(orders(200, wanted.epochs))
    trained = train(X, targets, lambda _: next(order), wanted, seed=3)
    plain = plainly(X, targets, orders(200, wanted.epochs), wanted, seed=3)
    found = [one for pair in zip(trained.weights, trained.biases, strict=True) for one in pair]
    for one, other in zip(found, plain.parameters(), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), rtol=0, atol=1e-5)


def test_mlp_learns_label_sets_with_thresholds_from_held_out_rows():
    X, sets = tagged()
    head = MLPHead(output="sigmoid").fit(X[:400], sets[:400])
    fixed = MLPHead(output="sigmoid", thresholds=0.5).fit(X[:400], scipy.sparse.csr_array(sets[:400]))
    assert head.predict(X).shape == head.predict_proba(X).shape == head.decision_function(X).shape == sets.shape
    np.testing.assert_array_equal(head.predict_proba(X), fixed.predict_proba(X))
    np.testing.assert_array_equal(head.predict(X), head.predict_proba(X) >= head.thresholds_)
    assert len(np.unique(head.thresholds_)) == 5
    assert fixed.thresholds_.tolist() == [0.5] * 5
    assert average_precision_score(sets[400:], head.predict_proba(X[400:])) > 0.7


def test_mlp_for_label_sets_with_balanced_labels_predicts_a_rare_label_more_often():
    X, sets = tagged()
    options = {"hidden": 16, "output": "sigmoid", "thresholds": 0.5, "epochs": 20}
    plain, first, second = (
        MLPHead(**options, **more).fit(X, sets) for more in ({}, {"balance": "weights"}, {"class_weight": "balanced"})
    )
    np.testing.assert_array_equal(first.decision_function(X), second.decision_function(X))
    assert first.predict(X)[:, -1].mean() > plain.predict(X)[:, -1].mean() + 0.02


def test_mlp_for_label_sets_ignores_and_never_holds_out_rows_with_weight_zero():
    X, sets = tagged(rows=300)
    weights = np.where(np.arange(300) < 150, 0.0, 1.0)
    other = sets.copy()
    other[:150] = 1 - other[:150]
    options = {"hidden": 8, "epochs": 3, "output": "sigmoid"}
    first, second = (MLPHead(**options).fit(X, y, weights) for y in (sets, other))
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    with pytest.raises(DataError, match="all or none of the rows with a weight above 0 have label 4"):
        MLPHead(**options).fit(X, sets, 1.0 - sets[:, 4])


@pytest.mark.parametrize("hidden", [np.int64(12), np.array(12), (12,), np.array([12]), [np.int32(12)]], ids=repr)
def test_mlp_takes_hidden_units_as_numpy_numbers_arrays_and_tuples(hidden):
    X, y = blobs(30, 4, 2)
    head = clone(MLPHead(hidden=hidden, epochs=1)).fit(X, y)
    assert head.model_.weights[0].shape == (12, 4)


def test_dropout_drops_the_requested_share_and_keeps_the_mean():
    network = Network(4, plan(dropout=0.3), np.random.default_rng(0))
    kept = network._kept(torch.Size((1000, 100)))
    assert (kept > 0).mean() == pytest.approx(0.7, abs=0.005)
    assert kept.mean() == pytest.approx(1, abs=0.01)
    assert len(np.unique(kept)) == 2


@pytest.mark.parametrize("balance", ["weights", "sampler"])
def test_mlp_with_balanced_classes_has_a_higher_recall_of_the_rare_class(balance):
    X, y = blobs(1200, 6, 2, apart=0.3, seed=8)
    keep = np.flatnonzero((y == "class 0") | (np.arange(1200) % 20 == 1))
    rare = y == "class 1"
    plain, balanced = (MLPHead(hidden=32, balance=how).fit(X[keep], y[keep]) for how in ("none", balance))
    assert (balanced.predict(X[rare]) == "class 1").mean() > 0.1 + (plain.predict(X[rare]) == "class 1").mean()


def test_mlp_option_balance_weights_equals_class_weight_balanced():
    X, y = blobs(200, 6, 2, seed=8)
    y[:60] = "class 0"
    first = MLPHead(hidden=8, epochs=5, balance="weights").fit(X, y)
    second = MLPHead(hidden=8, epochs=5, class_weight="balanced").fit(X, y)
    np.testing.assert_array_equal(first.decision_function(X), second.decision_function(X))


def test_mlp_training_stops_early_and_keeps_the_best_epoch():
    X, y = blobs(300, 40, 2, apart=0.15, seed=3)
    options = {"hidden": 64, "dropout": 0.0, "learning_rate": 3e-3}
    head = MLPHead(**options, patience=4).fit(X, y)
    judged = head.history_["held_out_loss"]
    assert head.n_iter_ == len(judged) == head.epochs_ + 4 < head.epochs
    assert int(np.argmin(judged)) == head.epochs_ - 1
    # More patience does not change the weights, which are always those of the epoch with the lowest held-out loss.
    longer = MLPHead(**options, patience=8).fit(X, y)
    assert (longer.epochs_, longer.n_iter_) == (head.epochs_, head.epochs_ + 8)
    np.testing.assert_array_equal(longer.decision_function(X), head.decision_function(X))
    full = train_head(X, y, kind="mlp", **options, patience=4)
    assert full.meta["chosen"] == {"epochs": head.epochs_}
    assert full.meta["history"]["held_out_loss"] == judged


def test_mlp_holds_out_a_stratified_part_and_keeps_groups_together():
    codes = np.repeat([0, 1], [400, 100])
    groups = np.arange(500) // 2
    head = MLPHead()
    head.classes_ = np.array([0, 1])
    held_out = head._targets(codes, None, groups, seed=0).held_out
    assert np.bincount(codes[held_out]).tolist() == [80, 20]
    assert set(groups[held_out]).isdisjoint(np.delete(groups, held_out))
    drawn = head._draw(head._targets(codes, None, groups, seed=0))(np.random.default_rng(0))
    assert sorted([*drawn, *held_out]) == list(range(500))


def test_mlp_stops_with_a_one_line_error_if_the_loss_is_not_finite():
    X, y = blobs(60, 4, 2)
    with pytest.raises(DataError, match=r"not finite in epoch \d+: learning_rate=1e\+12 or ") as caught:
        MLPHead(learning_rate=1e12, hidden=(8, 8, 8)).fit(X, y)
    assert "\n" not in str(caught.value)


def test_mlp_trains_on_two_rows_without_a_held_out_part():
    X = np.array([[0.0, 1.0], [1.0, 0.0]])
    head = MLPHead(hidden=16).fit(X, ["a", "b"])
    assert head.predict(X).tolist() == ["a", "b"]
    assert (head.epochs_, head.history_["held_out_loss"]) == (head.epochs, [])


def test_mlp_never_holds_out_the_only_row_of_a_class():
    X, y = blobs(41, 4, 2)
    y[-1] = "rare"
    X[-1] = 1000
    assert MLPHead(hidden=32).fit(X, y).predict(X[-1:]).tolist() == ["rare"]


def test_mlp_ignores_the_labels_of_rows_with_weight_zero():
    X, codes = normal(120, 2)
    weights = np.ones(120, np.float32)
    weights[100:] = 0
    other = np.where(weights > 0, codes, 1 - codes)
    wanted = plan(outputs=1)
    results = []
    for labels, weighted in ((codes, weights), (other, weights), (codes, np.ones(120, np.float32))):
        order = iter(orders(120, wanted.epochs))
        results.append(train(X, Targets(labels, weighted, np.empty(0, np.intp)), lambda _: next(order), wanted, seed=0))  # noqa: B023
    np.testing.assert_array_equal(results[0].weights[0], results[1].weights[0])
    assert not np.array_equal(results[0].weights[0], results[2].weights[0])


def test_mlp_never_holds_out_rows_with_weight_zero():
    codes = np.arange(200) % 2
    head = MLPHead()
    head.classes_ = np.array([0, 1])
    held_out = head._targets(codes, np.where(np.arange(200) < 100, 0.0, 1.0), None, seed=0).held_out
    assert len(held_out) > 10
    assert held_out.min() >= 100


@pytest.mark.parametrize("seed", range(8))
def test_mlp_holds_out_both_classes_if_few_rows_have_nonzero_weight(seed):
    X, y = blobs(40, 5, 2, seed=1)
    weights = np.zeros(40)
    for label in np.unique(y):
        weights[np.flatnonzero(y == label)[:5]] = 1
    kept = weights > 0
    weighted = MLPHead(8, epochs=5, random_state=seed).fit(X, y, weights)
    alone = MLPHead(8, epochs=5, random_state=seed).fit(X[kept], y[kept])
    # The two heads have different scalers, because the first scaler also sees the rows of weight 0.
    assert len(weighted.history_["held_out_loss"]) == len(alone.history_["held_out_loss"]) == weighted.n_iter_
    assert min(weighted.history_["loss"]) > 0


@pytest.mark.parametrize("weights", [np.full(40, 1e308), np.r_[np.full(20, 1e300), np.full(20, 1.0)]])
def test_huge_sample_weights_are_scaled_or_refused(weights):
    X, y = blobs(40, 5, 2, seed=1)
    if weights.min() == weights.max():
        plain = MLPHead(8, epochs=2).fit(X, y)
        assert MLPHead(8, epochs=2).fit(X, y, weights).history_ == plain.history_
    else:
        with pytest.raises(DataError, match="fewer than two classes with a weight above 0"):
            MLPHead(8, epochs=2).fit(X, np.arange(40) // 20, weights)


def test_mlp_training_has_the_same_losses_under_autocast():
    X, y = blobs(40, 5, 2, seed=1)
    plain = MLPHead(8, epochs=3).fit(X, y)
    with torch.autocast("cpu"):
        assert MLPHead(8, epochs=3).fit(X, y).history_ == plain.history_


def test_mlp_error_for_an_unusable_temporary_folder_names_the_remedy(monkeypatch, tmp_path):
    X, y = blobs(40, 5, 2, seed=1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(DataError, match="set TMPDIR to a folder with room"):
        MLPHead(8, epochs=2, memory_limit=0).fit(X, y)


@pytest.mark.parametrize("spread", [1e-300, 5e-324])
def test_scaler_that_makes_decision_values_infinite_is_refused_in_prediction(spread):
    X, y = blobs(40, 5, 2, seed=1)
    model = MLPHead(8, epochs=2).fit(X, y).model_
    hostile = replace(model, spread=np.full_like(model.spread, spread))
    with pytest.raises(DataError, match="decision values that are not finite"):
        hostile.decide_block(X)


def test_mlp_error_names_features_that_are_too_large_for_float32():
    X, codes = normal(40)
    X[3, 2] = np.inf
    with pytest.raises(DataError, match="the features are too large for float32"):
        train(X, Targets(codes, np.ones(40, np.float32), np.arange(4)), lambda _: np.arange(4, 40), plan(), 0)


def test_mlp_trained_from_a_temporary_file_because_of_its_memory_limit_predicts_the_same():
    X, y = blobs(150, 6, 3, seed=2)
    inside = MLPHead(hidden=16, epochs=5).fit(Streamed(X), y)
    outside = MLPHead(hidden=16, epochs=5, memory_limit=1).fit(Streamed(X), y)
    np.testing.assert_array_equal(inside.decision_function(X), outside.decision_function(X))


def test_mlp_error_for_a_full_disk_names_the_remedy(monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    X, y = blobs(60, 4, 2)
    with pytest.raises(DataError, match=r"No space left on device.*set TMPDIR") as caught:
        MLPHead(memory_limit=1).fit(X, y)
    assert "\n" not in str(caught.value)


def test_mlp_does_not_change_pytorchs_random_state_and_threads():
    X, y = blobs(60, 4, 2)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with torch.inference_mode():
        MLPHead(hidden=8, epochs=3).fit(X, y)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": 0}, "whole numbers of at least 1"),
        ({"hidden": ()}, "a number of units, or 1 to 8"),
        ({"hidden": [4] * 9}, "a number of units, or 1 to 8"),
        ({"hidden": "512"}, "a number of units, or 1 to 8"),
        ({"hidden": b"ab"}, "a number of units, or 1 to 8"),
        ({"hidden": np.array([[4]])}, "whole numbers of at least 1"),
        ({"hidden": np.array([4.5])}, "whole numbers of at least 1"),
        ({"memory_limit": "2 GiB"}, "memory_limit must be a number of bytes of at least 0, not '2 GiB'"),
        ({"hidden": 10**9}, "weights, at most 67,108,864"),
        ({"hidden": True}, "hidden"),
        ({"dropout": 1.0}, "dropout must be a number from 0"),
        ({"dropout": "0.5"}, "dropout must be"),
        ({"output": "relu"}, "output must be softmax or sigmoid"),
        ({"output": "sigmoid"}, "Only binary classification is supported with output='sigmoid', and there are 3"),
        ({"thresholds": 1.5}, "thresholds must be 'f1' or a number between 0 and 1, not 1.5"),
        ({"balance": "yes"}, "balance must be none, weights or sampler"),
        ({"balance": "sampler", "class_weight": "balanced"}, "give one of them"),
        ({"epochs": 0}, "epochs must be"),
        ({"epochs": 10**9}, "epochs must be a whole number from 1 to 1,000"),
        ({"patience": 1.5}, "patience must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"weight_decay": -1}, "weight_decay must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"validation_fraction": 0}, "validation_fraction must lie between 0 and 1"),
        ({"validation_fraction": "x"}, "validation_fraction must lie between 0 and 1"),
    ],
    ids=str,
)
def test_mlp_rejects_invalid_parameters_with_a_one_line_error(options, words):
    X, y = blobs(60, 4, 3)
    with pytest.raises(DataError, match=words) as caught:
        MLPHead(**options).fit(X, y)
    assert "\n" not in str(caught.value)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NAMES = sorted(set(inspect.signature(MLPHead).parameters) - {"random_state", "class_weight", "memory_limit"})


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(NAMES), value=VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(), VALUES))
def test_mlp_accepts_or_rejects_any_parameter_value_without_a_traceback(name, value):
    X, y = blobs(30, 4, 2)
    options = {"hidden": 4, "epochs": 2, name: value}
    if name in ("hidden", "epochs") and isinstance(value, int | list):
        options[name] = min(value, 50) if isinstance(value, int) else value[:1]
    told = ""
    try:
        MLPHead(**options).fit(X, y)
    except DataError as error:
        told = str(error)
    assert "\n" not in told


def test_mlp_rejects_parameters_of_other_heads():
    X, y = blobs(60, 4, 2)
    with pytest.raises(UsageError, match="mlp has no C"):
        train_head(X, y, kind="mlp", C=1.0)
    with pytest.raises(UsageError, match="mlp has no cross-validation.*validation_fraction"):
        train_head(X, y, kind="mlp", folds=3)


def test_mlp_predicts_without_importing_pytorch(tmp_path):
    code = (
        "import sys, numpy as np; from featstore.heads import load_head; "
        "print(load_head(sys.argv[1]).predict(np.zeros((1, 4), np.float32))[0], 'torch' in sys.modules)"
    )
    from featstore.heads import save_head

    X, y = blobs(60, 4, 2)
    save_head(tmp_path / "a.head", train_head(X, y, kind="mlp", hidden=8, output="sigmoid", epochs=2))
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.head"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
