from __future__ import annotations

import numpy as np
import pytest

from featstore.heads.solvers.whitening import Spectrum, spectrum_of


def test_preconditioner_up_to_256_dimensions_inverts_the_hessian_exactly():
    random = np.random.default_rng(0)
    sample = random.standard_normal((500, 40)) * np.linspace(0.1, 3, 40)
    right = random.standard_normal((40, 2))
    gram = sample.T @ sample / 500
    np.testing.assert_allclose(
        spectrum_of(sample).solve(7.0, right.T).T, np.linalg.solve(np.eye(40) + 7 * gram, right), rtol=1e-8
    )


@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_preconditioner_over_256_dimensions_gives_a_condition_number_below_3(scale):
    random = np.random.default_rng(0)
    deviations = np.arange(1, 401) ** -0.7
    sample = (random.standard_normal((3000, 400)) * deviations).astype(np.float32)
    hessian = np.eye(400) + scale * (sample.T @ sample / 3000)
    product = spectrum_of(sample).solve(scale, hessian)
    before, after = np.linalg.cond(hessian), np.linalg.cond(product)
    assert after < 3
    assert after < before or before < 1.1


def test_preconditioner_without_a_basis_solves_a_diagonal_system():
    spectrum = Spectrum(None, np.array([1.0, 3.0]), 0.0)
    np.testing.assert_allclose(spectrum.solve(2.0, np.ones((1, 2)))[0], [1 / 3, 1 / 7])
