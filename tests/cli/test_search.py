from __future__ import annotations

import shutil

import click
import pytest

from featstore.cli.quantities import to_bytes, to_seconds
from tests.chain import names, write_coloured
from tests.cli.running import run, run_json
from tests.page_reading import read

pytestmark = pytest.mark.slow

SMALL = ("--backbone", "squeezenet1_1", "--weights", "random:0", "--batch", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("searching")
    write_coloured(place / "pictures", names("", 5))
    shutil.copy(place / "pictures/ant/00.png", place / "pictures/bee/copy.png")
    run("extract", place / "pictures", place / "s", *SMALL)
    built = run_json("index", place / "s")
    assert (built["rows"], built["added"], built["index"]) == (11, 11, str(place / "s.faiss"))
    return place


def test_index_and_search(place, tmp_path):
    query = place / "pictures/bee/03.png"
    found = run_json("search", place / "s.faiss", query, "--k", "3", "--html", tmp_path / "page.html")
    assert found["queries"][0]["neighbours"][0]["key"] == "bee/03.png"
    assert found["queries"][0]["neighbours"][0]["label"] == "bee"
    assert len(read(tmp_path / "page.html").pictures) == 4
    (tmp_path / "bad.jpg").write_bytes(b"")
    result = run("search", place / "s.faiss", query, tmp_path / "bad.jpg", code=1)
    assert "failed: empty" in result.stdout
    assert "1.0000  bee/03.png  (bee)" in result.stdout


def test_growth_and_a_contract(place, tmp_path):
    """One store, one index as it comes and one to a contract that 11 pictures keep and 15 do not."""
    place = shutil.copytree(place, tmp_path / "place")
    assert "recall: 1" in run("index", place / "s").stdout
    asked = ("--recall", "0.9", "--at", "3", "--memory", "30K", "--latency", "1s", "--out", place / "c.faiss")
    built = run("index", place / "s", *asked)
    assert (
        "contract: recall@3 of at least 0.9, a file of at most 30,720 bytes, a query in at most 1000 ms" in built.stdout
    )
    assert "too few rows to measure its recall" in built.stdout
    assert "tried flat (1 of " in built.stderr
    table = next(line for line in built.stdout.splitlines() if line.startswith("flat "))
    assert table.endswith("chosen")
    shown = run("info", place / "c.faiss").stdout
    assert table in shown
    assert "the contract (recall@3 of at least 0.9) holds: every vector is compared" in shown

    write_coloured(place / "pictures", names("", 7)[5:7] + names("", 9)[16:], seed=4)
    run("extract", place / "pictures", place / "s", *SMALL)
    assert "4 pictures are not in the index" in run("search", place / "s.faiss", "--key", "bee/03.png").stdout
    assert "4 pictures are not in the index" in run("info", place / "s.faiss").stdout
    updated = run("index", place / "s", "--update")
    assert "4 added, 0 removed" in updated.stdout
    assert "recall: 1" in updated.stdout
    broken = run("index", place / "s", "--update", "--out", place / "c.faiss", code=1).stdout.splitlines()
    assert "4 added, 0 removed" in broken[0]
    remedy = f"featstore index {place}/s --recall 0.9 --at 3 --memory 30720 --latency 1s --out {place}/c.faiss"
    assert broken[-1].endswith(f"bytes where 30,720 are allowed; build it again: {remedy}")


def test_queries_by_key_and_class_and_filters(place, tmp_path):
    asked = ("--key", "bee/03.png", "--like-label", "ant", "--where", "label == 'ant' and key glob '*/0[0-2].png'")
    assert "0 of 11 pictures where label == 'ant'" in run("search", place / "s.faiss", *asked).stdout
    asked = ("--key", "bee/03.png", "--less-key", "bee/04.png", "--less-label", "ant", "--where", "key glob '*/00.png'")
    found = run_json("search", place / "s.faiss", *asked, "--html", tmp_path / "page.html")
    assert found["kept"] == 2
    assert found["queries"][0]["query"].startswith("bee/03.png - bee/04.png - the middle of ant")
    assert {one["key"] for one in found["queries"][0]["neighbours"]} == {"ant/00.png", "bee/00.png"}
    page = read(tmp_path / "page.html")
    assert len(page.pictures) == 2
    assert "those 2 of the 11 pictures where key glob '*/00.png', of" in page.text


def test_a_page_whose_pictures_are_gone_says_so(place, tmp_path):
    asked = ("search", place / "s.faiss", "--key", "bee/03.png", "--k", "2", "--html", tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    note = f"3 pictures of this page are not below {tmp_path / 'empty'}: --root says where they are now"
    assert f"note: {note}\n" in run(*asked, "--root", tmp_path / "empty").stdout
    page = read(tmp_path / "page.html")
    assert (len(page.pictures), note in page.text) == (0, True)


def test_duplicates(place, tmp_path):
    asked = ("duplicates", place / "s", "--threshold", "0.999999")
    text = run(*asked, "--html", tmp_path / "page.html").stdout
    assert "1 group of equal bytes" in text
    assert "group 1: equal bytes\n  equal bytes     ant/00.png  (ant)\n  equal bytes     bee/copy.png  (bee)\n" in text
    assert "note: in 1 group copies of one picture have different labels\n" in text
    assert len(read(tmp_path / "page.html").pictures) == 2
    assert run_json(*asked)["surplus"] == 1


@pytest.mark.parametrize(("text", "size"), [("4G", 4 << 30), ("1.5 MiB", 3 << 19), ("512m", 512 << 20), ("7", 7)])
def test_sizes(text, size):
    assert to_bytes(None, None, text) == size


@pytest.mark.parametrize(("text", "seconds"), [("5ms", 0.005), ("200 us", 0.0002), ("1.5s", 1.5)])
def test_times(text, seconds):
    assert to_seconds(None, None, text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "4X", "-1G", "1e3", "five"])
def test_what_is_no_size_and_no_time(text):
    for convert in (to_bytes, to_seconds):
        with pytest.raises(click.BadParameter, match="write one such as"):
            convert(None, None, text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "nowhere"), "no feature store"),
        (("search", "nowhere.faiss", "a.jpg"), "no such index"),
        (("index", "{s}", "--update", "--out", "new.faiss"), "no such index"),
        (("search", "{s}", "a.jpg"), "is a folder, not an index"),
        (("search", "{s}.faiss", "--key", "bee/03.png", "--where", "label = 1"), "filter, character 7: '='"),
        (("duplicates", "nowhere"), "no feature store"),
    ],
)
def test_mistakes_end_in_one_line(place, tmp_path, arguments, message):
    result = run(*[argument.format(s=place / "s") for argument in arguments], cwd=tmp_path, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "{s}.faiss", "--key", "bee/03.png", "--k", "2", "--k=3"),
        ("duplicates", "{s}", "--threshold", "0.9", "--threshold", "0.8"),
        ("index", "{s}", "--out", "a", "--out", "b"),
        ("train", "{s}", "--head", "knn", "--head", "logreg"),
        ("extract", "x", "y", "--backbone", "resnet18", "--backbone", "resnet50"),
    ],
)
def test_an_option_of_one_value_is_refused_twice(place, tmp_path, arguments):
    result = run(*[argument.format(s=place / "s") for argument in arguments], cwd=tmp_path, code=2)
    assert "is given 2 times; give it once" in result.stderr
    assert result.stdout == ""
