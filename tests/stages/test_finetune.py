from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featstore.artifacts.model import load_model
from featstore.backbones import load_backbone
from featstore.cli.finetune import _text
from featstore.embed.embedder import Embedder
from featstore.errors import DamagedError, DataError, FeatstoreError, UsageError
from featstore.finetuning.checkpoint import CHECKPOINT
from featstore.heads.evaluation.report import codes_of
from featstore.pages.finetune import write_finetune_page
from featstore.stages.extract import extract
from featstore.stages.finetune import finetune
from featstore.stages.finetune.places import Places
from featstore.stages.finetune.report import compare_heads
from featstore.stages.label import label
from featstore.stages.train import train
from featstore.store import FeatureStore
from tests.chain import COLOURS, make_store, names, write_coloured
from tests.faults.trouble import small_disk
from tests.stages.finetuning import FAST, NETWORK, SIDE, state_of, tuned, write_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 16 training pictures and 8 held-out pictures; tests only read it."""
    return write_store(tmp_path_factory.mktemp("tuning"))


@pytest.fixture(scope="module")
def done(store, tmp_path_factory):
    """The report of a finished run of two epochs, with one augmented view in a float32 cache."""
    out = tmp_path_factory.mktemp("done") / "m"
    return tuned(store, out, cache=1 << 30, dtype="float32")


def stopped(store, out, text, **options):
    """Return the report of a run that is stopped as soon as it prints a line that begins with ``text``."""
    stop = threading.Event()
    told = []

    def tell(event):
        told.append(event.text)
        if event.text.startswith(text):
            stop.set()

    report = tuned(store, out, progress=tell, stop=stop, **options)
    assert any(line.startswith(text) for line in told)
    return report


def test_accuracy_of_epoch_0_equals_that_of_the_frozen_head(store, done, tmp_path):
    frozen = train(store, out=tmp_path / "h").report
    first = done.history[0]
    assert first["epoch"] == 0
    assert first["held_out_accuracy"] == frozen.accuracy.value == done.tuned.frozen.accuracy.value
    assert first["held_out_macro_f1"] == pytest.approx(frozen.estimates["macro_f1"].value)
    assert first["held_out_loss"] == pytest.approx(frozen.estimates["log_loss"].value, rel=1e-4)


def test_finetuned_model_reproduces_the_held_out_predictions_of_its_run(store, done):
    model = load_model(done.path)
    opened = FeatureStore.open(store)
    from featstore.embed.embedder import inputs_of, make_embedder

    embedder = make_embedder(done.path, engine="torch")
    assert isinstance(embedder, Embedder)
    paths = [opened.path_of(opened.keys[int(row)]) for row in done.tuned.split.test]
    vectors = np.concatenate([block.vectors for block in embedder.blocks(inputs_of(paths))])
    probabilities = model.head.predict_proba(vectors)
    assert probabilities == pytest.approx(done.tuned.probabilities, abs=1e-4)
    codes = codes_of(opened.labels[done.tuned.split.test].astype(str), model.head.classes)
    assert (probabilities.argmax(1) == codes).mean() == done.tuned.report.accuracy.value
    told = json.loads(json.dumps(done.tuned.report.to_dict()))
    assert model.head.meta["report"] == told
    # The confusion matrix of thousands of classes would make model.json too large to be read.
    assert model.record["held_out"] == {name: value for name, value in told.items() if name != "confusion"}
    assert "confusion" not in model.record["frozen_head"]


def test_finetuning_changes_only_layers_after_the_last_frozen_one(done):
    before, after = load_backbone(**{"name": NETWORK["backbone"], "weights": NETWORK["weights"]}), load_model(done.path)
    cut = done.tuned.network.frozen_to
    assert cut == "features.11"
    changed = [
        name
        for (name, one), (_, other) in zip(
            before.module.state_dict().items(), after.backbone.module.state_dict().items(), strict=True
        )
        if not torch.equal(one, other)
    ]
    assert changed
    assert {name.split(".")[1] for name in changed} == {"12"}


def test_live_inputs_and_a_float32_cache_give_bit_identical_weights(store, done, tmp_path):
    live = tuned(store, tmp_path / "live", cache="none")
    assert (live.tuned.choice.cached, done.tuned.choice.cached) == (False, True)
    assert not (tmp_path / "live.cache").exists()
    assert state_of(tmp_path / "live") == state_of(done.path)


def test_stopped_and_resumed_finetuning_gives_bit_identical_weights(store, done, tmp_path):
    options = {"cache": 1 << 30, "dtype": "float32"}
    report = stopped(store, tmp_path / "m", "epoch 1", **options)
    assert report.stopped
    places = Places.of(tmp_path / "m")
    choice, took = places.read_inputs()
    assert took > 0
    places.write_inputs(choice, 1000.0)
    assert (report.epochs, report.planned, (tmp_path / "m").exists()) == (1, 2, False)
    with pytest.raises(UsageError, match="--resume continues it"):
        tuned(store, tmp_path / "m", **options)
    resumed = tuned(store, tmp_path / "m", resume=True, **options)
    assert state_of(tmp_path / "m") == state_of(done.path)
    assert resumed.tuned.report.to_dict() == done.tuned.report.to_dict()
    assert resumed.seconds["cache"] > 1000
    assert not (tmp_path / "m.run").exists()


def test_resumed_finetuning_notes_that_another_cache_option_has_no_effect(store, tmp_path):
    stopped(store, tmp_path / "m", "epoch 1", cache="none")
    resumed = tuned(store, tmp_path / "m", cache=1 << 30, resume=True)
    assert not resumed.tuned.choice.cached
    assert any("began with live inputs and goes on so" in note for note in resumed.notes)


def test_all_files_of_a_model_have_the_same_permissions(done):
    modes = {each.name: each.stat().st_mode for each in Path(done.path).iterdir()}
    assert len(modes) == 4
    assert len(set(modes.values())) == 1, modes


def test_finetune_resume_refuses_other_options_and_other_classes(store, tmp_path):
    place = tmp_path / "own"
    own = write_store(place)
    stopped(own, tmp_path / "m", "epoch 1", cache="none")
    with pytest.raises(UsageError, match="learning_rate"):
        tuned(own, tmp_path / "m", cache="none", lr=0.5, resume=True)
    (tmp_path / "labels.csv").write_text(
        "key,label\n" + "".join(f"{key},{'wasp' if 'bee' in key else 'ant'}\n" for key in FeatureStore.open(own).keys)
    )
    label(own, tmp_path / "labels.csv")
    with pytest.raises(UsageError, match="other classes"):
        tuned(own, tmp_path / "m", cache="none", resume=True)
    assert (tmp_path / "m.run" / CHECKPOINT).exists()


def test_finetune_on_a_folder_extracts_a_store_beside_the_model(store, tmp_path):
    report = finetune(store.parent / "pictures", tmp_path / "m", size=SIDE, **{**FAST, "epochs": 1}, **NETWORK)
    assert report.store == str(tmp_path / "m.features")
    assert len(FeatureStore.open(tmp_path / "m.features")) == 24
    again = extract(store.parent / "pictures", tmp_path / "tuned", backbone=str(tmp_path / "m"), supervised=False)
    assert again.vectors == 24
    features = FeatureStore.open(tmp_path / "tuned")
    rows = features.split_rows("val")
    predicted = load_model(tmp_path / "m").head.predict(features.features(rows=rows))
    assert (predicted == features.labels[rows]).mean() == report.tuned.report.accuracy.value


def test_gradual_unfreezing_starts_with_all_but_the_head_frozen(store, tmp_path):
    report = tuned(
        store, tmp_path / "m", unfreeze=(("features.12", 2), ("features.11", 3)), epochs=3, cache="none", head="mlp"
    )
    frozen = [row["frozen"] for row in report.history]
    assert frozen == ["all but the head", "all but the head", "before features.12", "before features.11"]
    assert report.tuned.network.frozen_to == "features.10"


def test_finetune_from_scratch_uses_random_weights_and_trains_every_layer(store, tmp_path):
    report = tuned(store, tmp_path / "m", from_scratch=True, epochs=1, seed=3)
    network = report.tuned.network
    assert network.trained == network.parameters
    assert not report.tuned.choice.cached
    assert report.history[0]["held_out_loss"] == pytest.approx(np.log(2), abs=0.05)
    lines = _text(report, report.tuned, [], None)
    (line,) = [line for line in lines if line.startswith("epoch 0")]
    assert line.startswith(f"epoch 0, random weights: accuracy {report.history[0]['held_out_accuracy']:.4f}, macro F1")
    assert "for comparison, a head on the stored features: accuracy" in line
    assert any(line.startswith("trained from scratch against the frozen head") for line in lines)
    write_finetune_page(report, tmp_path / "page.html")
    assert "Epoch 0 is the network with random weights." in (tmp_path / "page.html").read_text()


def test_from_scratch_trains_all_layers_with_the_same_rate(store, tmp_path):
    tuned(store, tmp_path / "m", from_scratch=True, epochs=1, seed=3, batch=16)
    before = load_backbone(NETWORK["backbone"], "random:3").module.state_dict()
    after = load_model(tmp_path / "m").backbone.module.state_dict()
    # The first step of AdamW moves a weight by its learning rate, whatever the size of the gradient.
    steps = [float((after[name] - before[name]).abs().max()) for name in before if name.endswith("weight")]
    assert max(steps) == pytest.approx(min(steps), rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_to": "features.99"}, "no layer 'features.99'.*features.9"),
        ({"unfreeze": (("feature.9", 1),)}, "did you mean 'features.9'"),
        ({"freeze_to": "features.12"}, "no layer with parameters is left to train"),
        ({"unfreeze": (("features.9", 1), ("features.12", 2))}, "trained already"),
        ({"unfreeze": (("features.9", 5),)}, "none of the epochs 1 to 2"),
        ({"freeze_to": "features.9", "all_layers": True}, "all_layers trains every layer"),
        ({"tensorboard": __file__}, "is a file"),
        ({"weights_only": __file__}, "is no .safetensors file"),
        ({"resume": True}, "no unfinished run"),
        ({"size": 64}, "leave size out"),
        ({"weights": "random:1"}, "other weights"),
        ({"views": 3, "augment": "none"}, "all views are equal"),
        ({"seed": -1}, "no seed"),
        ({"lr": 0.0}, "lr: 0.0 is not a number from"),
        ({"epochs": 2000}, "epochs: 2000 is not a number from 1 to 1000"),
        ({"held_out": float("nan")}, "held_out: nan is not a share"),
        ({"held_out": 0.2}, "held_out: the pictures of .* have splits, and 'val' is held out; leave held_out out"),
        ({"freeze_to": ""}, "the name of a layer is empty"),
        ({"unfreeze": (("", 1),)}, "the name of a layer is empty"),
        ({"batch": 1 << 17}, "batch: 131072 is not a number from 1 to 65536"),
        ({"accumulate": 1 << 17}, "accumulate: 131072 is not a number"),
        ({"cache": "much"}, "neither a number of bytes"),
        ({"head": "tree"}, "not one of linear, mlp"),
    ],
)
def test_finetune_refuses_invalid_options_before_training(store, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        tuned(store, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "m.cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_to": "features.12"}, "no layer with parameters is left to train"),
        ({"unfreeze": (("features.9", 1), ("features.12", 2))}, "trained already"),
        ({"freeze_to": "features.9", "unfreeze": (("features.12", 1),)}, "trained already"),
        ({"unfreeze": (("features.9", 2), ("features.12", 2))}, "two layers for one epoch"),
    ],
)
def test_wrong_layers_are_refused_before_the_interrupted_run_is_cleared(store, tmp_path, options, message):
    (tmp_path / "m.run").mkdir()
    (tmp_path / "m.run" / CHECKPOINT).write_bytes(b"an interrupted run")
    with pytest.raises(UsageError, match=message):
        tuned(store, tmp_path / "m", force=True, **options)
    with pytest.raises(UsageError, match=message):
        finetune(store.parent / "pictures", tmp_path / "n", **NETWORK, **options)
    assert sorted(os.listdir(tmp_path)) == ["m.run"]
    assert os.listdir(tmp_path / "m.run") == [CHECKPOINT]


@pytest.mark.parametrize("force", [False, True])
def test_finetune_keeps_a_strangers_files_in_the_folder_of_its_run(store, tmp_path, force):
    (tmp_path / "m.run").mkdir()
    (tmp_path / "m.run/notes.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"m\.run: holds 'notes.txt', which is no part of an interrupted run"):
        tuned(store, tmp_path / "m", force=force)
    assert (tmp_path / "m.run/notes.txt").read_text() == "precious"


@pytest.mark.parametrize("content", [None, b"{}", b'{"choice": {}}'])
def test_damaged_record_of_the_inputs_of_a_run_has_a_remedy(tmp_path, content):
    places = Places.of(tmp_path / "m")
    places.run.mkdir()
    if content is not None:
        (places.run / "inputs.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"inputs\.json: .*leave --resume out and add --force to start it anew"):
        places.read_inputs()


def test_clearing_a_run_removes_only_the_files_that_a_run_writes(tmp_path):
    places = Places.of(tmp_path / "m")
    places.run.mkdir()
    for name in (CHECKPOINT, "inputs.json", f".{CHECKPOINT}.0a1b.tmp", "notes.txt", "other.tmp"):
        (places.run / name).write_text("x")
    places.clear_run()
    assert sorted(os.listdir(places.run)) == ["notes.txt", "other.tmp"]


@pytest.mark.parametrize("link", [False, True])
def test_finetune_refuses_a_file_or_link_in_place_of_the_folder_of_its_run(store, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    if link:
        (tmp_path / "m.run").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "m.run").write_text("precious")
    with pytest.raises(UsageError, match=r"m\.run: is no folder"):
        tuned(store, tmp_path / "m")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_copies_count_as_one_picture_in_the_test_of_the_tuned_network():
    truth, classes = np.array(["a"] * 12 + ["b"] * 4), ["a", "b"]
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    frozen = np.array([wrong] * 6 + [right] * 6 + [wrong] * 4)
    now = np.array([right] * 12 + [wrong] * 4)
    apart = compare_heads(truth, frozen, now, classes, groups=np.arange(16), seed=0)
    copies = compare_heads(truth, frozen, now, classes, groups=np.r_[[0] * 6, np.arange(1, 11)], seed=0)
    assert (apart.better, apart.worse, copies.better, copies.worse) == (6, 0, 6, 0)
    assert (apart.p_value, copies.p_value) == (pytest.approx(2 / 2**6), 1.0)
    assert copies.verdict == "no measurable difference"


@pytest.mark.parametrize("option", ["tensorboard", "weights_only"])
@pytest.mark.parametrize("place", ["m", "m.run/x", "m.cache/x", "m.features/x"])
def test_finetune_refuses_other_outputs_in_its_own_folders(store, tmp_path, option, place):
    with pytest.raises(UsageError, match="which this run writes"):
        tuned(store, tmp_path / "m", **{option: tmp_path / place})
    assert sorted(os.listdir(tmp_path)) == []


@pytest.mark.parametrize("out", ["/", ".", "", ".."])
def test_finetune_refuses_a_path_of_the_model_that_ends_in_no_name(store, out):
    with pytest.raises(UsageError, match="does not end in a name"):
        tuned(store, out)


def test_a_run_that_was_refused_before_its_first_epoch_leaves_nothing_behind(store, tmp_path):
    with pytest.raises(UsageError, match="no layer 'features.99'"):
        tuned(store, tmp_path / "m", freeze_to="features.99")
    assert os.listdir(tmp_path) == []


def test_finetune_replaces_an_existing_model_only_with_option_force(store, tmp_path):
    tuned(store, tmp_path / "m", epochs=1, cache="none")
    before = state_of(tmp_path / "m")
    with pytest.raises(UsageError, match="--force"):
        tuned(store, tmp_path / "m", epochs=1, cache="none")
    assert state_of(tmp_path / "m") == before
    tuned(store, tmp_path / "m", epochs=1, cache="none", seed=5, force=True)
    assert state_of(tmp_path / "m") != before


def test_finetune_refuses_a_cache_made_with_other_frozen_layers(store, tmp_path):
    tuned(store, tmp_path / "m", epochs=1, cache=1 << 30, freeze_to="features.10")
    with pytest.raises(UsageError, match=r"holds activations of other options; remove .*m\.cache"):
        tuned(store, tmp_path / "m", epochs=1, cache=1 << 30, force=True)
    assert (tmp_path / "m").exists()


def test_finetune_makes_no_cache_above_the_size_limit(store, tmp_path):
    report = tuned(store, tmp_path / "m", epochs=1, cache=1 << 10)
    assert not report.tuned.choice.cached
    assert report.tuned.choice.reason.startswith("live: a cache would take")
    assert not (tmp_path / "m.cache").exists()


def test_disk_full_error_during_caching_names_the_remedy(store, tmp_path, monkeypatch):
    options = {"cache": 1 << 30, "dtype": "float32", "freeze_to": "features.3"}
    with small_disk(tmp_path / "disk", 400 << 10) as mounted:
        if not mounted:
            fill_when_written_below(monkeypatch, tmp_path / "disk/m.cache")
        with pytest.raises(FeatstoreError, match=r"the disk is full.*--cache none"):
            tuned(store, tmp_path / "disk/m", **options)
        assert not (tmp_path / "disk/m").exists()


def fill_when_written_below(monkeypatch, folder):
    """Make writes below ``folder`` fail as on a full disk; used where no small disk can be mounted."""
    real = os.pwrite

    def pwrite(handle, data, offset):
        if os.readlink(f"/proc/self/fd/{handle}").startswith(str(folder)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)


def test_non_finite_loss_stops_finetuning_and_keeps_the_last_epoch(store, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"not finite.*epoch \d+, .*is kept in .*m\.run"):
        tuned(store, tmp_path / "m", epochs=20, cache="none", lr=1000.0, optimizer="sgd")
    assert (tmp_path / "m.run" / CHECKPOINT).exists()
    assert not (tmp_path / "m").exists()
    # The error recommends this command. The disk is full after it wrote the model, and its epochs are kept.
    options = {"epochs": 1, "cache": "none", "lr": 1e-4, "optimizer": "sgd", "weights_only": tmp_path / "w.safetensors"}
    with monkeypatch.context() as patched:
        patched.setattr("featstore.artifacts.model.write_weights_only", full_disk)
        with pytest.raises(FeatstoreError, match="the disk is full; free some space and run .* with --resume"):
            tuned(store, tmp_path / "m", force=True, **options)
    assert (tmp_path / "m").exists()
    assert tuned(store, tmp_path / "m", resume=True, **options).tuned is not None
    assert (tmp_path / "w.safetensors").exists()


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_finetune_refuses_a_store_with_only_one_class(tmp_path):
    folder = write_coloured(tmp_path / "pictures", names("train", 4, ("ant",)) + names("val", 2, ("ant",)))
    extract(folder, tmp_path / "s", supervised=False, size=SIDE, **NETWORK)
    with pytest.raises(UsageError, match="one class only"):
        tuned(tmp_path / "s", tmp_path / "m")


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("val", r"s: the held-out split 'val' has no pictures of cow, .*featstore label .*s TABLE"),
        ("train", "the split 'val' has pictures of cow, which the split 'train' lacks"),
    ],
)
def test_finetune_refuses_a_class_that_one_split_lacks_and_keeps_an_interrupted_run(tmp_path, lacking, message):
    pictures = [name for split in ("train", "val") for name in names(split, 2, tuple(COLOURS))]
    pictures = [name for name in pictures if not name.startswith(f"{lacking}/cow")]
    write_coloured(tmp_path / "pictures", pictures)
    make_store(tmp_path / "pictures", tmp_path / "s")
    (tmp_path / "m.run").mkdir()
    (tmp_path / "m.run" / CHECKPOINT).write_bytes(b"epochs")
    with pytest.raises(UsageError, match=message):
        tuned(tmp_path / "s", tmp_path / "m", force=True)
    assert (tmp_path / "m.run" / CHECKPOINT).read_bytes() == b"epochs"


def test_batchnorm_keeps_its_statistics_or_refuses_batches_of_one_picture(tmp_path):
    store = write_store(tmp_path, 3, 2, backbone="shufflenet_v2_x0_5", weights="random:0")
    with pytest.raises(UsageError, match="batches of one row"):
        tuned(store, tmp_path / "m", batch=1, cache="none", batch_norm="train")
    # A last batch of one picture joins the batch before.
    moved = tuned(store, tmp_path / "m", batch=5, cache="none", epochs=1, batch_norm="train", force=True)
    kept = tuned(store, tmp_path / "kept", batch=1, cache="none", epochs=1)
    names = [name for name in load_file(tmp_path / "m/weights.safetensors") if name.startswith("conv5.1.running")]
    before = load_backbone("shufflenet_v2_x0_5", "random:0").module.state_dict()
    for report, same in ((moved, False), (kept, True)):
        after = load_file(f"{report.path}/weights.safetensors")
        assert [torch.equal(before[name], after[name]) for name in names] == [same, same]
    changed = load_file(tmp_path / "kept/weights.safetensors")
    assert not torch.equal(before["conv5.1.weight"], changed["conv5.1.weight"])


def test_finetune_omits_and_counts_unlabelled_pictures_and_failures(tmp_path):
    folder = write_coloured(tmp_path / "pictures", names("train", 4) + names("val", 2))
    (folder / "train/ant/broken.png").write_bytes(b"no picture")
    extract(folder, tmp_path / "s", supervised=False, size=SIDE, decode="fast", **NETWORK)
    (tmp_path / "labels.csv").write_text("key,label\ntrain/ant/00.png,\n")
    label(tmp_path / "s", tmp_path / "labels.csv")
    report = tuned(tmp_path / "s", tmp_path / "m", epochs=1, cache=1 << 30)
    assert "left out: 1 picture without a label" in report.notes
    assert [note for note in report.notes if "could not be read" in note] == [
        "1 picture could not be read: left out (see featstore failures)"
    ]
    assert len(report.tuned.split.train) == 7
    assert load_model(tmp_path / "m").head.identity["decoder"] == FeatureStore.open(tmp_path / "s").identity.decoder


@pytest.mark.parametrize("cache", ["none", 1 << 30])
def test_finetune_names_a_changed_picture_and_writes_nothing(tmp_path, cache):
    store = write_store(tmp_path, 3, 2)
    write_coloured(tmp_path / "pictures", ["train/ant/01.png"], seed=9)
    with pytest.raises(FeatstoreError, match="changed"):
        tuned(store, tmp_path / "m", cache=cache)
    assert not (tmp_path / "m").exists()


def test_finished_finetuning_leaves_no_file_of_its_store_open(store, tmp_path):
    tuned(store, tmp_path / "m", epochs=1, cache="none")
    gc.collect()
    # The files that are open now belong to other reports, which other tests of this module keep.
    before = open_files_below(store)
    tuned(store, tmp_path / "again", epochs=1, cache="none")
    gc.collect()
    assert open_files_below(store) == before


def open_files_below(folder):
    """Return the paths of all files below ``folder`` that this process has open, sorted; one entry per open handle."""
    found = []
    for handle in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{handle}"))
    return sorted(path for path in found if path.startswith(f"{folder}/"))


def test_weights_only_file_fits_the_authors_network(store, done, tmp_path):
    from torchvision.models import squeezenet1_1

    tuned(store, tmp_path / "m", cache="none", weights_only=tmp_path / "w.safetensors")
    network = squeezenet1_1(num_classes=2)
    network.load_state_dict(load_file(tmp_path / "w.safetensors"))


def test_weights_only_file_replaces_another_file_only_with_force(store, tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"other weights")
    with pytest.raises(UsageError, match="w.safetensors: exists; name another file"):
        tuned(store, tmp_path / "m", weights_only=file)
    assert file.read_bytes() == b"other weights"
    for inside in ("m/weights.safetensors", "m.run/w.safetensors", "m.cache/w.safetensors"):
        (tmp_path / inside).parent.mkdir()
        with pytest.raises(UsageError, match="which this run writes; name another place"):
            tuned(store, tmp_path / "m", weights_only=tmp_path / inside, force=True)


def test_finetune_does_not_mix_the_pictures_of_two_sources(tmp_path):
    options = {**FAST, **NETWORK, "size": SIDE, "epochs": 1, "cache": "none"}
    finetune(write_coloured(tmp_path / "one", names("train", 3) + names("val", 2)), tmp_path / "m", **options)
    other = [name.replace("/0", "/9") for name in names("train", 3) + names("val", 2)]
    with pytest.raises(UsageError, match=r"m\.features: holds pictures of 2 sources"):
        finetune(write_coloured(tmp_path / "two", other), tmp_path / "m", **options, force=True)


def test_unknown_layer_with_force_leaves_the_interrupted_run(store, tmp_path):
    stop = threading.Event()

    def tell(event):
        if "epoch 1 of" in event.text:
            stop.set()

    assert tuned(store, tmp_path / "m", progress=tell, stop=stop, cache="none").tuned is None
    before = (tmp_path / "m.run" / CHECKPOINT).read_bytes()
    with pytest.raises(UsageError, match="no layer 'features.99'"):
        tuned(store, tmp_path / "m", force=True, freeze_to="features.99", cache="none")
    assert (tmp_path / "m.run" / CHECKPOINT).read_bytes() == before
