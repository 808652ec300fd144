"""TensorBoard files: TensorBoard's own reader reads them, and a resumed run writes no epoch twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from featstore.errors import UsageError
from featstore.finetuning.training import train
from tests.finetuning.small import SmallNetwork, SmallPhases, made_data, made_plan

pytest.importorskip("tensorboardX")


def run(folder: Path, log: Path, *, epochs: int = 9, resume: bool = False, seed: int = 0) -> list[dict[str, object]]:
    """Train until the epoch ``epochs``; return the metrics of all epochs."""
    network, plan, done = SmallNetwork(), made_plan(seed=seed), []
    history = train(
        network,
        SmallPhases(network, plan),
        made_data(),
        plan,
        folder,
        resume=resume,
        log=log,
        on_epoch=done.append,
        stop=lambda: len(done) > epochs,
    )
    return [record.to_dict() for record in history]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_every_epoch_once_after_a_resume(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = tmp_path / "deep" / "log"
    log.mkdir(parents=True)
    foreign = log / "events.out.tfevents.1.other"
    foreign.write_bytes(b"")
    run(tmp_path, log, epochs=2)
    history = run(tmp_path, log, resume=True)
    assert foreign.exists()
    foreign.unlink()
    (path,) = log.iterdir()
    run(tmp_path / "other", log, seed=1)
    assert len(list(log.iterdir())) == 2
    reader = reading.EventAccumulator(str(path), purge_orphaned_data=False)
    reader.Reload()
    names = {
        "loss/train": "loss",
        "loss/held_out": "held_out_loss",
        "accuracy/train": "accuracy",
        "accuracy/held_out": "held_out_accuracy",
        "macro_f1/held_out": "held_out_macro_f1",
        "learning_rate": "learning_rate",
    }
    assert set(reader.Tags()["scalars"]) == set(names)
    for tag, name in names.items():
        expected = [(record["epoch"], record[name]) for record in history if record[name] is not None]
        found = [(event.step, event.value) for event in reader.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


@pytest.mark.parametrize("below", ["", "log"])
def test_tensorboard_path_that_is_a_file_is_refused_before_training(tmp_path, below):
    (tmp_path / "file").touch()
    network, plan, data = SmallNetwork(), made_plan(), made_data()
    with pytest.raises(UsageError, match="is a file, where a folder is needed"):
        train(network, SmallPhases(network, plan), data, plan, tmp_path / "out", log=tmp_path / "file" / below)
    assert data.held_out.asked == []
    assert not (tmp_path / "out").exists()
