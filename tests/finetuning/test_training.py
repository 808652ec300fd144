"""Training equals plain PyTorch, resumes bit for bit, and keeps the last finished epoch after an error."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import Tensor, nn
from torch.nn import functional

from featstore.errors import DataError, UsageError
from featstore.finetuning.checkpoint import CHECKPOINT
from featstore.finetuning.history import EpochRecord
from featstore.finetuning.plan import Plan, batch_sizes, order_of, rate_factor, steps_of
from featstore.finetuning.training import TrainingData, train
from tests.finetuning.small import (
    MadeExamples,
    SmallNetwork,
    SmallPhases,
    WithAuxiliary,
    made_data,
    made_plan,
    made_rows,
)


def run(
    folder: Path, plan: Plan, network: SmallNetwork | None = None, data: TrainingData | None = None, **options: Any
) -> tuple[SmallNetwork, list[EpochRecord]]:
    """Train with gradual unfreezing at epochs 2 and 3, if the plan has that many epochs."""
    network = network or SmallNetwork()
    phases = SmallPhases(network, plan, *options.pop("starts", (2, 3)))
    return network, train(network, phases, data or made_data(), plan, folder, **options)


def states(network: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: each.detach().numpy().copy() for name, each in network.state_dict().items()}


def require_equal(first: nn.Module, second: nn.Module) -> None:
    other = states(second)
    for name, array in states(first).items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def without_seconds(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return [row[:-1] for row in csv.reader(file)]


@pytest.mark.slow  # slow, because the optimiser classes of torch load its compiler
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw", lambda each: torch.optim.AdamW(each, 1e-2, weight_decay=0.1)),
        ("adam", lambda each: torch.optim.Adam(each, 1e-2, weight_decay=0.1)),
        ("sgd", lambda each: torch.optim.SGD(each, 1e-2, momentum=0.9, weight_decay=0.1)),
    ],
)
def test_trained_weights_equal_those_of_a_plain_pytorch_loop(tmp_path, name, make):
    plan = made_plan(optimiser=name, weight_decay=0.1, label_smoothing=0.1)
    network, _ = run(tmp_path, plan, SmallNetwork(dropout=0.0), starts=(1, 1))
    plain, data = SmallNetwork(dropout=0.0), made_data()
    plain.train()
    optimiser, codes = make(plain.parameters()), torch.from_numpy(data.training.codes)
    step, steps = 0, 4 * steps_of(61, plan)
    for epoch in range(1, 5):
        order = torch.from_numpy(order_of(data.training.codes, plan, epoch))
        for rows in order.split(batch_sizes(61, 10)):
            optimiser.param_groups[0]["lr"] = 1e-2 * rate_factor(step, steps)
            optimiser.zero_grad()
            inputs = torch.from_numpy(data.training.values)[rows] + np.float32(0.1 * epoch)
            losses = functional.cross_entropy(plain(inputs), codes[rows], label_smoothing=0.1, reduction="none")
            (losses.sum() / len(rows)).backward()
            optimiser.step()
            step += 1
    assert step == steps
    expected = states(plain)
    for key, array in states(network).items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


def test_accumulated_gradients_equal_those_of_one_large_batch(tmp_path):
    first, _ = run(tmp_path / "1", made_plan(batch_size=20, optimiser="sgd"), SmallNetwork(norm=False, dropout=0.0))
    second, _ = run(
        tmp_path / "2", made_plan(batch_size=5, accumulate=4, optimiser="sgd"), SmallNetwork(norm=False, dropout=0.0)
    )
    expected = states(first)
    for name, array in states(second).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5)
        assert not np.array_equal(array, states(SmallNetwork(norm=False, dropout=0.0))[name])


def test_epoch_0_evaluates_the_network_before_training(tmp_path):
    network = SmallNetwork().eval()
    data = made_data()
    with torch.no_grad():
        logits = network(torch.from_numpy(data.held_out.values))
    _, history = run(tmp_path, made_plan(), network, data)
    assert [record.epoch for record in history] == [0, 1, 2, 3, 4]
    start = history[0]
    assert (start.loss, start.accuracy, start.learning_rate) == (None, None, None)
    assert start.held_out_accuracy == accuracy_score(data.held_out.codes, logits.argmax(1).numpy())
    assert history[-1].held_out_accuracy > start.held_out_accuracy


@pytest.mark.parametrize("classes", [2, 3])
def test_held_out_metrics_equal_those_of_scikit_learn(tmp_path, classes):
    data = made_data(classes)
    network, history = run(tmp_path, made_plan(), SmallNetwork(classes), data)
    with torch.no_grad():
        logits = network(torch.from_numpy(data.held_out.values)).double()
    if classes == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    predicted, codes, last = logits.argmax(1).numpy(), data.held_out.codes, history[-1]
    assert last.held_out_accuracy == accuracy_score(codes, predicted)
    assert last.held_out_macro_f1 == pytest.approx(f1_score(codes, predicted, average="macro"), abs=1e-12)
    assert last.held_out_loss == pytest.approx(log_loss(codes, logits.softmax(1).numpy()), abs=1e-5)


def test_macro_f1_equals_that_of_scikit_learn_if_held_out_classes_are_missing():
    from featstore.finetuning.history import Tally

    random, tally = np.random.default_rng(0), Tally(6)
    codes, decisions = random.integers(0, 3, 50), random.normal(size=(50, 6))
    decisions[:, 5] = -10
    tally.add(decisions[:20], codes[:20])
    tally.add(decisions[20:], codes[20:])
    expected = f1_score(codes, decisions.argmax(1), average="macro", zero_division=0)
    assert tally.macro_f1 == pytest.approx(expected, abs=1e-12)


def test_frozen_layers_keep_parameters_and_batch_norm_statistics(tmp_path):
    network = SmallNetwork()
    seen = [states(network)]
    run(tmp_path, made_plan(), network, on_epoch=lambda record: seen.append(states(network)))

    def changed(before: int, after: int) -> set[str]:
        return {
            name.split(".")[0] for name, each in seen[after].items() if not np.array_equal(each, seen[before][name])
        }

    # seen[0] is the state before the run, seen[1] the state after epoch 0, seen[2] the state after epoch 1.
    assert [changed(at, at + 1) for at in range(5)] == [
        set(),
        {"head"},
        {"head", "second"},
        {"head", "second", "first"},
        {"head", "second", "first"},
    ]
    assert seen[3]["first.1.num_batches_tracked"] == 0 < seen[4]["first.1.num_batches_tracked"]


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", [0, 3, 8, 13, 19])
def test_stopped_and_resumed_training_equals_uninterrupted_training(tmp_path, optimiser, steps):
    plan = made_plan(optimiser=optimiser, balance="sampler")
    whole, history = run(tmp_path / "whole", plan)
    count = 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count > steps + 3  # Epoch 0 has 3 batches.

    _, part = run(tmp_path / "broken", plan, stop=stop)
    assert len(part) < len(history)
    resumed, again = run(tmp_path / "broken", plan, resume=True)
    require_equal(whole, resumed)
    assert without_seconds(tmp_path / "broken/metrics.csv") == without_seconds(tmp_path / "whole/metrics.csv")
    assert [record.seconds for record in again[: len(part)]] == [record.seconds for record in part]


def test_second_concurrent_training_in_one_folder_is_refused(tmp_path):
    errors: list[str] = []

    def second() -> None:
        try:
            run(tmp_path, made_plan(), resume=True)
        except UsageError as error:
            errors.append(str(error))

    def on_step(epoch: int, step: int, steps: int, loss: float) -> None:
        if (epoch, step) == (2, 3):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    network, _ = run(tmp_path, made_plan(), on_step=on_step)
    assert len(errors) == 1
    assert "is writing this checkpoint" in errors[0]
    require_equal(network, run(tmp_path / "alone", made_plan())[0])


def test_stopped_training_returns_the_network_of_the_last_finished_epoch(tmp_path):
    network, event, at_epoch = SmallNetwork(), threading.Event(), {}

    def on_step(epoch: int, step: int, steps: int, loss: float) -> None:
        if (epoch, step) == (3, 4):
            event.set()

    _, history = run(
        tmp_path,
        made_plan(),
        network,
        on_step=on_step,
        on_epoch=lambda record: at_epoch.update({record.epoch: states(network)}),
        stop=event.is_set,
    )
    assert [record.epoch for record in history] == [0, 1, 2]
    for name, array in states(network).items():
        np.testing.assert_array_equal(array, at_epoch[2][name], err_msg=name)
    assert not network.training


def test_keyboard_interrupt_keeps_the_last_finished_epoch(tmp_path):
    network, at_epoch = SmallNetwork(), {}

    def on_step(epoch: int, step: int, steps: int, loss: float) -> None:
        if (epoch, step) == (2, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            made_plan(),
            network,
            on_step=on_step,
            on_epoch=lambda record: at_epoch.update({record.epoch: states(network)}),
        )
    for name, array in states(network).items():
        np.testing.assert_array_equal(array, at_epoch[1][name], err_msg=name)
    whole, _ = run(tmp_path / "whole", made_plan())
    resumed, _ = run(tmp_path, made_plan(), resume=True)
    require_equal(whole, resumed)


class Spoilt(MadeExamples):
    """Examples whose inputs are infinite from the fourth batch of the second epoch on."""

    def batches(self, rows: NDArray[np.intp], epoch: int, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        for number, (inputs, part) in enumerate(super().batches(rows, epoch, size)):
            yield inputs * (float("inf") if epoch == 2 and number >= 3 else 1.0), part


def test_error_for_a_non_finite_loss_names_epoch_and_step(tmp_path):
    good = made_data()
    data = TrainingData(Spoilt(*made_rows(61, 3, 2)), good.held_out, good.classes, good.digest)
    network, at_epoch = SmallNetwork(), {}
    with pytest.raises(
        DataError,
        match=r"not finite in epoch 2, step 4 of 6; .*anew with --force.*smaller than 0\.01; .*epoch 1, the last good",
    ):
        run(
            tmp_path,
            made_plan(),
            network,
            data,
            on_epoch=lambda record: at_epoch.update({record.epoch: states(network)}),
        )
    for name, array in states(network).items():
        np.testing.assert_array_equal(array, at_epoch[1][name], err_msg=name)
    assert len(without_seconds(tmp_path / "metrics.csv")) == 3
    resumed, _ = run(tmp_path, made_plan(), data=good, resume=True)
    whole, _ = run(tmp_path / "whole", made_plan(), data=good)
    require_equal(whole, resumed)


def test_error_for_a_non_finite_start_does_not_advise_a_smaller_learning_rate(tmp_path):
    network = SmallNetwork()
    with torch.no_grad():
        network.head.weight.fill_(float("inf"))
    with pytest.raises(DataError, match="not finite after epoch 0; .*take other weights or another network"):
        run(tmp_path, made_plan(), network)


def test_error_for_a_huge_learning_rate_names_the_epoch_that_is_kept(tmp_path):
    network = SmallNetwork(norm=False)
    before = states(network)
    with pytest.raises(DataError, match="not finite") as caught:
        run(tmp_path, made_plan(optimiser="sgd", learning_rate=1000.0, weight_decay=1000.0), network, starts=(1, 1))
    assert "\n" not in str(caught.value)
    kept = len(without_seconds(tmp_path / "metrics.csv")) - 2
    assert f"epoch {kept}, " in str(caught.value)
    assert f"is kept in {tmp_path / CHECKPOINT}" in str(caught.value)
    if kept == 0:
        for name, array in states(network).items():
            np.testing.assert_array_equal(array, before[name])


def test_balanced_sampler_draws_both_classes_equally_often(tmp_path):
    values, codes = made_rows(1000, 2, 5)
    codes[:] = np.arange(1000) % 10 == 0
    training = MadeExamples(values, codes)
    data = TrainingData(training, made_data(2).held_out, ("no", "yes"), "")
    run(tmp_path, made_plan(epochs=8, batch_size=100, balance="sampler"), SmallNetwork(2), data)
    shares = [codes[rows].mean() for rows, _ in training.asked]
    assert [epoch for _, epoch in training.asked] == list(range(1, 9))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert len({rows.tobytes() for rows, _ in training.asked}) == 8


def test_balance_weights_scales_the_loss_by_inverse_class_frequency(tmp_path):
    values, codes = made_rows(100, 2, 5)
    codes[:] = np.arange(100) % 4 == 0
    data = TrainingData(MadeExamples(values, codes, shift=0.0), made_data(2).held_out, ("no", "yes"), "")
    plan = made_plan(epochs=1, batch_size=100, balance="weights", optimiser="sgd", momentum=0.0, weight_decay=0.0)
    network, history = run(tmp_path, plan, SmallNetwork(2, dropout=0.0), data, starts=(1, 1))
    plain = SmallNetwork(2, dropout=0.0).train()
    weights = torch.from_numpy(np.where(codes == 1, 2.0, 2 / 3).astype(np.float32))
    logits = plain(torch.from_numpy(values))[:, 0]
    loss = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(codes).float(), weights)
    loss.backward()
    assert history[1].loss == pytest.approx(float(loss.detach()), abs=1e-5)
    for (name, after), before in zip(network.named_parameters(), plain.parameters(), strict=True):
        expected = before - 1e-2 * rate_factor(0, 1) * before.grad
        np.testing.assert_allclose(after.detach().numpy(), expected.detach().numpy(), atol=1e-5, err_msg=name)


def test_sigmoid_and_softmax_losses_of_two_classes_are_equal_with_smoothing():
    from featstore.finetuning.steps import losses

    logits, codes = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), np.arange(20) % 2
    softmax, sigmoid = losses(logits, codes, 0.2), losses(logits[:, 1:] - logits[:, :1], codes, 0.2)
    np.testing.assert_allclose(softmax.numpy(), sigmoid.numpy(), atol=1e-5)
    expected = functional.cross_entropy(logits, torch.from_numpy(codes), label_smoothing=0.2, reduction="none")
    np.testing.assert_allclose(softmax.numpy(), expected.numpy(), atol=1e-5)


def test_loss_of_the_auxiliary_classifier_has_the_weight_0_4(tmp_path):
    plan = made_plan(epochs=1, batch_size=61, optimiser="sgd", momentum=0.0, weight_decay=0.0)
    network, plain = WithAuxiliary(), WithAuxiliary().train()
    plain.load_state_dict(network.state_dict())
    data = made_data()
    run(tmp_path, plan, network, data, starts=(1, 1))
    inputs, codes = torch.from_numpy(data.training.values) + np.float32(0.1), torch.from_numpy(data.training.codes)
    logits, auxiliary = plain(inputs)
    (functional.cross_entropy(logits, codes) + 0.4 * functional.cross_entropy(auxiliary, codes)).backward()
    for (name, after), before in zip(network.named_parameters(), plain.parameters(), strict=True):
        expected = (before - 1e-2 * rate_factor(0, 1) * before.grad).detach().numpy()
        np.testing.assert_allclose(after.detach().numpy(), expected, atol=1e-5, err_msg=name)
    assert plain.auxiliary.weight.grad.abs().max() > 0


def test_last_batch_with_one_row_is_merged_with_the_batch_before():
    assert batch_sizes(61, 10) == [10, 10, 10, 10, 10, 11]
    assert batch_sizes(62, 10) == [10, 10, 10, 10, 10, 10, 2]
    assert batch_sizes(60, 10) == [10] * 6
    assert batch_sizes(1, 10) == [1]
    assert batch_sizes(3, 1) == [1, 2]


def test_batch_size_1_is_refused_if_batch_norm_layers_are_trained(tmp_path):
    data = made_data()
    with pytest.raises(UsageError, match="batch size of at least 2"):
        run(tmp_path, made_plan(batch_size=1), data=data)
    assert data.training.asked == []
    run(tmp_path / "frozen", made_plan(batch_size=1, epochs=1), starts=(1, 9))
    run(tmp_path / "none", made_plan(batch_size=1, epochs=1), SmallNetwork(norm=False))


def test_training_leaves_the_global_state_of_torch_unchanged(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, _ = run(tmp_path / "1", made_plan())
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(6)
    second, _ = run(tmp_path / "2", made_plan())
    require_equal(first, second)
    third, _ = run(tmp_path / "3", made_plan(seed=1))
    assert not np.array_equal(first.head.weight.detach(), third.head.weight.detach())


def test_learning_rate_warms_up_linearly_and_decays_by_a_cosine():
    factors = [rate_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([step / 11 for step in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.001
    assert rate_factor(0, 1) == 1.0


@pytest.mark.parametrize(
    ("codes", "classes", "match"),
    [
        ([0] * 20, ("a",), "one class only"),
        ([0] * 20, ("a", "b"), "one class only"),
        ([0, 1] * 10, ("a", "b", "c"), "1 of 3"),
    ],
)
def test_training_data_that_lack_a_class_are_refused(tmp_path, codes, classes, match):
    data = TrainingData(MadeExamples(made_rows(20, 2, 0)[0], np.array(codes)), made_data(2).held_out, classes)
    with pytest.raises(DataError, match=match):
        run(tmp_path / "out", made_plan(), data=data)
    assert not (tmp_path / "out").exists()


def test_training_without_held_out_rows_is_refused(tmp_path):
    data = made_data()
    empty = MadeExamples(np.zeros((0, 8), np.float32), np.zeros(0, np.intp))
    with pytest.raises(DataError, match="no held-out rows"):
        run(tmp_path, made_plan(), data=TrainingData(data.training, empty, data.classes))


class Losing(MadeExamples):
    """Examples that never yield their last row."""

    def batches(self, rows: NDArray[np.intp], epoch: int, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        yield from super().batches(rows[:-1], epoch, size)


def test_training_examples_that_omit_a_row_raise_an_error(tmp_path):
    data = made_data()
    with pytest.raises(RuntimeError, match="did not yield the rows"):
        run(tmp_path, made_plan(), data=TrainingData(Losing(*made_rows(61, 3, 2)), data.held_out, data.classes))


def test_network_with_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"shape \(10, 4\), which do not fit 3 classes"):
        run(tmp_path, made_plan(), SmallNetwork(4))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epochs": 0}, "epochs must be a whole number from 1 to 1,000"),
        ({"batch_size": True}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"optimiser": "adamv"}, "did you mean .*'adamw'"),
        ({"balance": "sample"}, "did you mean 'sampler'"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"unfreeze": (("a", 5),)}, "the epoch of a in unfreeze must be a whole number from 1 to 4"),
        ({"unfreeze": (("a", 2), ("b", 2))}, "two layers for one epoch"),
    ],
)
def test_invalid_training_settings_are_refused(changes, match):
    with pytest.raises(UsageError, match=match):
        made_plan(**changes)


def test_precision_bf16_is_refused_on_the_cpu(tmp_path):
    with pytest.raises(UsageError, match="bf16 is for CUDA only"):
        run(tmp_path, made_plan(bf16=True))
