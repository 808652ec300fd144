"""The options of extract: the library, the command and the worker process use one class, ExtractOptions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from featstore.cli.extract import extract as command
from featstore.embed.embedder import EmbedKeywords, EmbedOptions
from featstore.errors import UsageError
from featstore.sources import open_source
from featstore.stages.extract import ExtractKeywords, ExtractOptions, extract
from featstore.stages.extract.supervisor import _Attempt
from tests.made import tiny_backbone, write_pictures


@pytest.mark.parametrize(("keywords", "options"), [(ExtractKeywords, ExtractOptions), (EmbedKeywords, EmbedOptions)])
def test_types_of_keyword_options_have_the_fields_of_the_option_classes(keywords, options):
    declared = {name: hint.__forward_arg__ for name, hint in keywords.__annotations__.items()}
    assert declared == {each.name: each.type for each in dataclasses.fields(options)}


def test_extract_command_has_the_defaults_of_the_library():
    defaults = {each.name: each.default for each in dataclasses.fields(ExtractOptions)}
    context = command.make_context("extract", ["pictures", "s"])
    given = {name: value for name, value in context.params.items() if name in defaults}
    assert given == {name: defaults[name] for name in given}
    # The command line has lists of backbones and weights, with one entry per store, and the option --views instead of
    # view.
    assert defaults.keys() - given.keys() == {"max_bytes", "backbone", "weights", "view"}
    assert (context.params["backbones"], context.params["weights_names"]) == ((), ())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": (2, 2)}, r"units: \(2, 2\) is not i/n"),
        ({"batch": 0}, "batch: 0 is less than 1"),
        ({"workers": -1}, "workers: -1 is less than 1"),
        ({"max_memory": 0}, "max_memory: 0 is less than 1"),
        ({"stall_seconds": float("nan")}, "stall_seconds: nan is not more than 0"),
        ({"unit_rows": 1 << 40}, "unit_rows: 1,099,511,627,776 is more than"),
    ],
)
def test_extract_rejects_option_values_out_of_range(options, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        extract(tmp_path, tmp_path / "s", **options)


def test_error_names_an_unknown_option():
    with pytest.raises(TypeError, match="'bach'"):
        extract("pictures", "s", bach=16)


def test_options_are_passed_unchanged_to_the_worker_process():
    options = ExtractOptions(backbone="resnet18", units=(1, 3), root=Path("/mnt"), label_column="", workers=3)
    again = ExtractOptions.from_dict(json.loads(json.dumps(options.to_dict())))
    assert again == dataclasses.replace(options, root="/mnt")


def test_extraction_runs_in_a_supervised_worker_process_by_default(tmp_path, monkeypatch):
    started = []

    def note(attempt):
        started.append(attempt.job["runs"][0]["options"]["backbone"])
        attempt.error = {"error": "UsageError", "message": "enough"}

    monkeypatch.setattr(_Attempt, "run", note)
    pictures = write_pictures(tmp_path / "pictures", ["a.png"])
    with pytest.raises(UsageError, match="enough"):
        extract(pictures, tmp_path / "s", backbone="resnet18")
    assert started == ["resnet18"]
    report = extract(pictures, tmp_path / "s", backbone=tiny_backbone(), engine="torch", supervised=False)
    assert (report.vectors, len(started)) == (1, 1)


def test_worker_process_accepts_no_loaded_backbone_or_opened_source(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", ["a.png"])
    with pytest.raises(UsageError, match="a loaded backbone cannot be passed.*supervised=False"):
        extract(pictures, tmp_path / "s", backbone=tiny_backbone())
    with pytest.raises(UsageError, match="an opened source cannot be passed.*supervised=False"):
        extract(open_source(pictures), tmp_path / "s")
    assert not (tmp_path / "s").exists()
