"""The registry (list of data sets for download): entries are complete, and pictures get their labels and splits.

The archives in these tests have the file names of the published archives, but other content.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from featstore.datasets import fetch, registry
from featstore.sources import open_source
from tests.datasets.archives import made_tgz, made_zip
from tests.datasets.serving import Server

ROOT = Path(__file__).parents[2]
# File names as in the published archives, including files that are not pictures.
LISTINGS = {
    "hymenoptera_data.zip": [
        f"hymenoptera_data/{split}/{label}/{name}"
        for split in ("train", "val")
        for label in ("ants", "bees")
        for name in ("0013035.jpg", "imageNotFound.gif")
    ],
    "kagglecatsanddogs_5340.zip": [
        *(f"PetImages/{label}/{name}" for label in ("Cat", "Dog") for name in ("0.jpg", "1.jpg", "Thumbs.db")),
        "CDLA-Permissive-2.0.pdf",
        "readme[1].txt",
    ],
    "rps.zip": [f"rps/{label}/{label}01-000.png" for label in ("rock", "paper", "scissors")],
    "rps-test-set.zip": [f"rps-test-set/{label}/test{label}01-00.png" for label in ("rock", "paper", "scissors")],
    "flower_photos.tgz": [
        *(f"flower_photos/{label}/1.jpg" for label in ("daisy", "dandelion", "roses", "sunflowers", "tulips")),
        "flower_photos/LICENSE.txt",
    ],
}
FOUND = {
    "hymenoptera": ({"ants", "bees"}, {"train", "val"}, 8),
    "dogs-vs-cats": ({"Cat", "Dog"}, {None}, 4),
    "rock-paper-scissors": ({"rock", "paper", "scissors"}, {"train", "test"}, 6),
    "flowers": ({"daisy", "dandelion", "roses", "sunflowers", "tulips"}, {None}, 5),
}


def test_registry_of_data_sets_has_complete_entries() -> None:
    assert set(registry()) == set(FOUND)
    for name, dataset in registry().items():
        assert dataset.name == name
        assert dataset.licence
        assert dataset.home.startswith("https://")
        for archive in dataset.archives:
            assert archive.url.startswith("https://")
            assert archive.name in LISTINGS
            assert archive.size > 1 << 20
            assert re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
            assert archive.digest_from
    digests = [archive.sha256 for dataset in registry().values() for archive in dataset.archives]
    assert len(set(digests)) == len(digests) == 5


@pytest.mark.parametrize("name", list(FOUND))
def test_fetched_data_set_has_the_expected_labels_and_splits(server: Server, tmp_path: Path, name: str) -> None:
    dataset = registry()[name]
    archives = []
    for archive in dataset.archives:
        make = made_zip if archive.name.endswith(".zip") else made_tgz
        served = server.archive(archive.name, make({member: member.encode() for member in LISTINGS[archive.name]}))
        archives.append(dataclasses.replace(archive, url=served.url, size=served.size, sha256=served.sha256))
    fetch(dataclasses.replace(dataset, archives=tuple(archives)), tmp_path / name)
    source = open_source(tmp_path / name)
    labels, splits, pictures = FOUND[name]
    rows = [row for chunk in source.chunks() for row in zip(chunk.labels, chunk.splits, strict=True)]
    assert ({label for label, _ in rows}, {split for _, split in rows}, len(rows)) == (labels, splits, pictures)
    assert source.layout == dataset.layout.replace("/file", "")


def test_data_readme_lists_every_data_set_with_its_size() -> None:
    text = (ROOT / "data" / "README.md").read_text()
    for name, dataset in registry().items():
        line = next(line for line in text.splitlines() if line.startswith(f"| [{name}]"))
        assert f"{dataset.size / 1e6:.0f} MB" in line
        assert dataset.home in line
        assert dataset.licence.partition(";")[0] in line
