from __future__ import annotations

import pytest

from featstore.text import (
    close_to,
    composed,
    counted,
    did_you_mean,
    is_misspelling,
    lookalike_key,
    natural,
    percentage,
)


@pytest.mark.parametrize(
    "ordered",
    [
        ["1", "2", "10"],
        ["-10", "-1", "0", "2.5", "10"],
        ["class 2", "class 10", "class 10b"],
        ["v1.9", "v1.10"],
        ["01", "1", "2"],
        ["9", "10", "ant"],
        ["ant", "bee", "cow"],
        ["img" + "9" * 5000, "img1" + "0" * 5000],
        ["1e2", "1e3", "200000"],
        ["n01440764", "n01443537", "n02102040"],
    ],
)
def test_natural_order_sorts_numbers_by_value(ordered: list[str]):
    assert sorted(set(ordered), key=natural) == ordered


def test_decomposed_unicode_is_converted_to_composed_unicode():
    assert composed("cafe\u0301") == "caf\u00e9"
    assert composed("\udcff\u00e9") == "\udcff\u00e9"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cat"),
        ("golden retriever", "golden_retriever"),
        ("1", "01"),
        ("1", "1.00"),
        ("1", "+1"),
        ("1000", "1e3"),
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat\u200b"),
        ("cat", "\uff43\uff41\uff54"),
        ("a  b", "a\u00a0b"),
    ],
)
def test_lookalike_key_is_equal_for_two_spellings_of_one_name(one: str, other: str):
    assert lookalike_key(one) == lookalike_key(other)


@pytest.mark.parametrize(("one", "other"), [("1", "2"), ("cat", "cats"), ("v1", "v2"), ("1.5", "15"), ("1", "-1")])
def test_lookalike_key_differs_for_names_that_are_different(one: str, other: str):
    assert lookalike_key(one) != lookalike_key(other)


def test_close_to_and_did_you_mean_suggest_similar_names():
    keys = ["train/cat/cat.1.jpg", "train/cat/cat.10.jpg", "train/dog/dog.1.jpg"]
    assert close_to("cat.1.jpg", keys)[0] == "train/cat/cat.1.jpg"
    assert did_you_mean("exctract", ["extract", "train"]) == "; did you mean 'extract'?"
    assert did_you_mean("zzz", ["extract", "train"]) == ""


@pytest.mark.parametrize(
    ("word", "expected"),
    [("lable", True), ("labl", True), ("labell", True), ("glass", False), ("label", False), ("abel", False)],
)
def test_is_misspelling_accepts_one_swapped_missing_or_added_letter(word: str, expected: bool):
    assert any(is_misspelling(word, name) for name in ("label", "class")) is expected


def test_counted_nouns_are_singular_or_plural():
    assert [counted(count, "picture") for count in (0, 1, 2000)] == ["0 pictures", "1 picture", "2,000 pictures"]
    assert [counted(count, "key is", "keys are") for count in (1, 2)] == ["1 key is", "2 keys are"]


def test_percentages_are_only_rounded_to_0_or_100_if_they_are():
    told = [percentage(value) for value in (0, 12.345, 99.9583, 100, 99.9999, 0.0001, 100 - 1e-12)]
    assert told == ["0.00", "12.35", "99.96", "100.00", "99.9999", "0.0001", "100.00"]
