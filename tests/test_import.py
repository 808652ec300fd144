from __future__ import annotations

import re
import subprocess
import sys

import featstore

HEAVY = (
    "torch",
    "torchvision",
    "faiss",
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "h5py",
    "numpy",
    "jinja2",
    "PIL",
    "click",
)


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.strip().split(",")) - {""}


def test_importing_featstore_imports_no_large_library():
    assert modules_after("import featstore") == set()
    assert modules_after("import featstore\ndir(featstore)") == set()


def test_reading_a_store_imports_neither_torch_nor_faiss():
    loaded = modules_after("import featstore\nfeatstore.FeatureStore")
    assert loaded.isdisjoint({"torch", "torchvision", "faiss", "sklearn", "pandas", "jinja2"})
    loaded = modules_after(
        "import featstore\nfeatstore.load_head\nfeatstore.predict\nfeatstore.search\nfeatstore.train"
    )
    assert loaded.isdisjoint({"torch", "torchvision", "faiss", "sklearn", "pandas", "jinja2"})


def test_every_exported_name_can_be_imported():
    for name in set(featstore.__all__) - {"__version__"}:
        assert getattr(featstore, name).__name__ == name
    assert re.fullmatch(r"\d+\.\d+\.\d+", featstore.__version__)
    assert set(featstore.__all__) <= set(dir(featstore))
