from __future__ import annotations

import threading

import pytest

from featstore.decode import decode
from featstore.sources import open_source
from tests.made import extract, tiny_backbone, write_pictures


@pytest.fixture
def folder(tmp_path):
    return write_pictures(
        tmp_path / "pictures", [f"{label}/{number}.png" for label in ("ant", "bee") for number in "1234"]
    )


def run(source, store, **options):
    return extract(source, store, **{"backbone": tiny_backbone(), "engine": "torch", "batch": 2, **options})


def test_extract_report_names_layout_number_of_classes_and_splits(folder, tmp_path):
    report = run(folder, tmp_path / "s")
    assert (report.layout, report.classes, report.splits, report.notes) == ("class", 2, [], [])
    write_pictures(folder, ["top.png"])
    report = run(folder, tmp_path / "flat")
    assert (report.layout, report.classes) == ("flat", 0)
    assert "top.png lies directly in the folder" in report.notes[0]


def test_notes_explain_why_no_picture_could_be_read(folder, tmp_path):
    (tmp_path / "t.csv").write_text("path,label\nant/1.png,ant\nbee/2.png,bee\n")
    report = run(tmp_path / "t.csv", tmp_path / "s")
    assert report.fruitless
    assert report.notes == [
        f"none of the 2 pictures of this run could be read, for all are missing below {tmp_path}; --root says where they are"
    ]
    report = run(open_source(tmp_path / "t.csv", root=folder), tmp_path / "s", retry_failures=True)
    assert (report.fruitless, report.vectors, report.notes) == (False, 2, [])


def test_note_counts_the_vectors_that_a_stopped_extraction_kept(folder, tmp_path):
    stop = threading.Event()
    late = {path.read_bytes() for path in (folder / "bee").iterdir()}

    def held_back(data, preprocessing, *, max_pixels):
        assert data not in late or stop.wait(60)
        return decode(data, preprocessing, max_pixels=max_pixels)

    def tell(progress):
        if progress.done >= 1:
            stop.set()

    options = {"batch": 1, "workers": 20, "decoder": held_back, "stop": stop, "progress": tell}
    report = run(folder, tmp_path / "s", **options)
    assert (report.stopped, report.vectors) == (True, 0)
    assert report.notes[0].startswith(f"{report.new_vectors} of the pending pictures are extracted already")
    assert run(folder, tmp_path / "s", batch=1).notes == []


def test_pictures_deleted_before_their_extraction_are_no_failures(folder, tmp_path):
    stopped = threading.Event()
    stopped.set()
    run(folder, tmp_path / "s", stop=stopped)
    gone = next(folder.rglob("*.png"))
    gone.unlink()
    report = run(folder, tmp_path / "s")
    assert (report.new_vectors, report.new_failures, report.reasons) == (report.images, 0, {})
    assert (report.failures, report.pending) == (0, 0)


def test_extract_notes_that_an_earlier_folder_of_pictures_is_missing(folder, tmp_path):
    run(folder, tmp_path / "s")
    folder.rename(tmp_path / "moved")
    (note,) = run(tmp_path / "moved", tmp_path / "s").notes
    assert note.startswith(f"{folder}, an earlier source, is gone, and its pictures stay in the store")
    assert run(open_source(folder, root=tmp_path / "moved"), tmp_path / "s").notes == []


def test_note_names_the_earlier_source_whose_pending_pictures_were_extracted(folder, tmp_path):
    stopped = threading.Event()
    stopped.set()
    run(folder, tmp_path / "s", stop=stopped)
    more = write_pictures(tmp_path / "more", ["cow/1.png"], seed=40)
    report = run(more, tmp_path / "s")
    assert (report.new_vectors, report.notes[1:]) == (
        9,
        [f"pending pictures of {folder} were extracted too, read from {folder}"],
    )


def test_note_warns_if_more_processes_run_than_units_exist(folder, tmp_path):
    (note,) = run(folder, tmp_path / "s", units=(1, 3)).notes
    assert note.startswith("the store has 1 unit to share among 3 processes")
    assert run(folder, tmp_path / "t", units=(1, 3), unit_rows=2).notes == []
