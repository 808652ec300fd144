from __future__ import annotations

import pytest

from featstore.errors import UsageError
from featstore.pages.demo import write_demo_page
from featstore.sources import open_source
from featstore.stages.demo import EvenSubset, demo
from featstore.stages.sample import write_sample
from tests.page_reading import read, require_shown


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "d"
    return folder, demo(folder, limit=40, write_page=write_demo_page)


@pytest.mark.slow
def test_demo_writes_an_html_page_with_pictures(done):
    folder, report = done
    assert (report.images, report.vectors, report.failures) == (40, 40, 0)
    assert [step.name.split()[0] for step in report.steps] == [
        "sample",
        "extract",
        *["train"] * len(report.heads),
        "index",
    ]
    page = read(folder / "demo.html")
    first = report.heads[0]
    wrong = round((1 - first.report.accuracy.value) * first.report.rows)
    # The page shows at most 14 samples and 14 errors, and 5 queries with 7 neighbours each.
    assert len(page.pictures) == min(14, first.report.rows) + min(14, wrong) + 5 * 8
    for text in ("Nearest neighbours", "Confusion matrix", "featstore extract", "Heads compared"):
        assert text in page.text
    require_shown(folder / "demo.html")


@pytest.mark.slow
def test_second_run_of_demo_keeps_finished_files_and_gives_the_same_report(done):
    folder, report = done
    before = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("demo.")
    }
    again = demo(folder, limit=40)
    after = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("demo.")
    }
    assert after == before
    assert [one.report.accuracy for one in again.heads] == [one.report.accuracy for one in report.heads]
    assert all(step.kept for step in again.steps)
    assert not any(step.kept for step in report.steps)
    assert [step.made_in for step in again.steps] == [step.seconds for step in report.steps]


@pytest.mark.slow
def test_demo_refuses_an_output_file_or_a_folder_with_other_files_or_limit_zero(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        demo(tmp_path / "file")
    (tmp_path / "d/digits").mkdir(parents=True)
    (tmp_path / "d/digits/mine.txt").write_text("x")
    with pytest.raises(UsageError, match="other files"):
        demo(tmp_path / "d")
    with pytest.raises(UsageError, match="at least 1"):
        demo(tmp_path / "e", limit=0)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 7, 100, 1797, 5000])
def test_even_subset_of_a_source_has_the_requested_number_of_pictures(tmp_path, limit):
    write_sample("digits", tmp_path / "digits")
    chunks = list(EvenSubset(open_source(tmp_path / "digits"), limit).chunks(500))
    assert sum(map(len, chunks)) == min(limit, 1797)
    labels = {label for chunk in chunks for label in chunk.labels}
    assert len(labels) == min(limit, 10) or limit == 7
