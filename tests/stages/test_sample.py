"""featstore.write_sample with the sample "digits", which needs no download; tests/cli/test_sample.py tests
downloads."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from featstore.errors import UsageError
from featstore.stages.sample import sample_names, write_sample


def test_digits_sample_equals_that_of_scikit_learn(tmp_path):
    digits = load_digits()
    assert write_sample("digits", tmp_path / "d") == len(digits.target) == len(list((tmp_path / "d").rglob("*.png")))
    for number in (0, 900, 1796):
        with Image.open(tmp_path / "d" / str(digits.target[number]) / f"{number:04d}.png") as image:
            np.testing.assert_array_equal(np.round(np.asarray(image) * (16 / 255)), digits.images[number])


def test_write_sample_refuses_unknown_samples_and_folders_with_other_files(tmp_path):
    with pytest.raises(UsageError, match=r"no sample 'digit'.*digits"):
        write_sample("digit", tmp_path / "d")
    assert "digits" in sample_names()
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="holds other files"):
        write_sample("digits", tmp_path)
