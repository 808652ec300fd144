"""Run the examples in the docstrings of the public estimators."""

import doctest
import importlib
import inspect

import pytest

_SECTIONS = ("Parameters", "Attributes", "Examples")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("featstore.heads.estimators.linear", "LogisticHead"),
        ("featstore.heads.estimators.linear", "LinearSVMHead"),
        ("featstore.heads.estimators.kernel", "KernelSVMHead"),
        ("featstore.heads.estimators.neighbours", "KNNHead"),
        ("featstore.heads.estimators.mlp", "MLPHead"),
        ("featstore.heads.estimators.one_vs_rest", "OneVsRestHead"),
        ("featstore.heads.estimators.ridge", "RidgeHead"),
        ("featstore.embed.transformer", "ImageEmbedder"),
    ],
)
def test_docstring_examples_run_and_list_every_parameter(module: str, name: str) -> None:
    estimator = getattr(importlib.import_module(module), name)
    text = inspect.getdoc(estimator) or ""
    assert all(f"\n{section}\n{'-' * len(section)}\n" in text for section in _SECTIONS)
    parameters = text.split("Parameters\n")[1].split("Attributes\n")[0]
    listed = {
        word for line in parameters.splitlines() if " : " in line for word in line.split(" : ")[0].strip().split(", ")
    }
    assert listed == set(estimator().get_params())
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(estimator, name, globs={}):
        runner.run(example)
    assert runner.summarize().attempted >= 4
    assert runner.summarize().failed == 0
