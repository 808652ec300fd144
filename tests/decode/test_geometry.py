from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.decode import Preprocessing
from featstore.decode.geometry import picture_box

CROP, SQUASH, PAD = Preprocessing(256, 224), Preprocessing(224, 224, fit="squash"), Preprocessing(224, 224, fit="pad")


@pytest.mark.parametrize(
    ("size", "how", "part", "box"),
    [
        # The whole input: the central 224 of 256 pixels, in a picture that was twice as large.
        ((512, 512), CROP, (0, 0, 1, 1), (32, 32, 480, 480)),
        ((1024, 512), CROP, (0, 0, 1, 1), (288, 32, 736, 480)),
        ((448, 224), SQUASH, (0.5, 0.5, 1, 1), (224, 112, 448, 224)),
        ((448, 224), PAD, (0, 0.25, 0.5, 0.5), (0, 0, 224, 112)),
        ((448, 224), PAD, (0, 0, 0.1, 0.2), None),
        ((448, 224), PAD, (0.5, 0, 1, 0.5), (224, 0, 448, 112)),
        ((3, 3), SQUASH, (0.4, 0.4, 0.6, 0.6), (1, 1, 2, 2)),
    ],
)
def test_part_of_the_input_is_found_in_the_picture(size, how, part, box):
    assert picture_box(size, how, part) == box


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([CROP, SQUASH, PAD]), st.integers(1, 60), st.data())
def test_cells_of_a_map_cover_the_visible_part_without_gaps(width, height, how, cells, data):
    row, column = data.draw(st.integers(0, cells - 1)), data.draw(st.integers(0, cells - 1))
    part = column / cells, row / cells, (column + 1) / cells, (row + 1) / cells
    box = picture_box((width, height), how, part)
    if box is None:
        assert how is PAD
        return
    left, top, right, bottom = box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if column + 1 < cells:
        beside = picture_box((width, height), how, (part[2], part[1], part[2] + 1 / cells, part[3]))
        assert beside is None or beside[0] <= right
    whole = picture_box((width, height), how, (0, 0, 1, 1))
    assert np.all(np.array(whole)[:2] <= box[:2])
    assert np.all(np.array(whole)[2:] >= box[2:])
