"""The list of stale stores, heads, indexes and pages in a folder, and the commands that update them."""

from __future__ import annotations

import html
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.artifacts.lineage import _parents
from featstore.cli import featstore
from featstore.errors import UsageError
from featstore.indexes import FeatureIndex
from featstore.pages.search import write_search_page
from featstore.stages.compact import compact
from featstore.stages.index import index
from featstore.stages.info import info
from featstore.stages.remove import purge, remove
from featstore.stages.search import Query, search
from featstore.stages.train import train
from featstore.store import FeatureStore
from featstore.store.label_history import label_history, undo_label
from featstore.store.labels import set_columns
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone

SEEDS = int(os.environ.get("FEATSTORE_INFO_SEEDS", "2"))
STEPS = int(os.environ.get("FEATSTORE_INFO_STEPS", "14"))


class Place:
    """A folder with pictures, their store ("old"), two stores made from that store, three indexes and a head.

    The store "follows" takes its labels from "old" (option ``follow``); the store "new" does not.
    """

    def __init__(self, folder: Path, followed: bool = True) -> None:
        self.folder, self.pictures = folder, write_coloured(folder / "pictures", names("", 5))
        self.stores = [folder / name for name in ("old", "new", "follows")[: 2 + followed]]
        for store in self.stores:
            self.extract(store)
        keys = [key.encode() for key in FeatureStore.open(self.stores[0]).keys]
        set_columns(self.stores[0], keys, {"split": [("train", "train", "test")[at % 3] for at in range(len(keys))]})
        self.extract(self.stores[1])
        self.seen: dict[str, Any] = {}
        for number, store in enumerate(self.stores):
            self.make(folder / f"sub/{number}.faiss", store)
        self.make(folder / "sub/a.head", self.stores[0])

    def extract(self, store: Path, source: Path | None = None) -> None:
        number = self.stores.index(store)
        options = {"follow": True} if number == 2 else {}
        source = source or (self.pictures if number == 0 else self.stores[0])
        make_store(source, store, backbone=tiny_backbone(number), unit_rows=4, **options)

    def make(self, path: Path, store: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".head":
            train(store, out=path, head="logreg", C=1.0, folds=2, force=True)
        else:
            index(store, out=path, kind="hnsw" if "1" in path.name else "flat")
        self.seen[path.name] = (store, self.rows(store, splits=path.suffix == ".head"))

    @staticmethod
    def rows(store: Path, *, splits: bool) -> list[tuple[Any, ...]]:
        opened = FeatureStore.open(store)
        columns = [opened.ids.tolist(), opened.labels.tolist(), *([opened.splits.tolist()] if splits else [])]
        return sorted(zip(*columns, strict=True))

    def expected(self) -> set[str]:
        """Compute the names of the stale artifacts from the rows, labels and splits that each artifact was made from."""
        old = FeatureStore.open(self.stores[0])
        stale = set()
        for store in self.stores[1:]:
            opened = FeatureStore.open(store)
            differs = {*old.keys} - {*opened.keys} - set(self.denied.get(store, ())) or {*opened.keys} - {*old.keys}
            times = [dict(zip(each.keys, each.sha256.tolist(), strict=True)) for each in (old, opened)]
            differs = differs or {key for key in times[0].keys() & times[1].keys() if times[0][key] != times[1][key]}
            lags = store.name == "new" and self.versions(store) < old._tables.version
            if differs or lags:
                stale.add(store.name)
        for name, (store, rows) in self.seen.items():
            if store.name in stale or self.rows(store, splits=name.endswith(".head")) != rows:
                stale.add(name)
        return stale

    denied: dict[Path, list[str]]

    @staticmethod
    def versions(store: Path) -> int:
        return sum("of" in table.meta for table in FeatureStore.open(store)._tables.own)

    def make_trainable(self) -> None:
        """Label four training pictures if a class has fewer than two: the head could not be trained otherwise."""
        old = FeatureStore.open(self.stores[0])
        rows = np.flatnonzero(old.splits == "train")
        if min(int((old.labels[rows] == name).sum()) for name in ("ant", "bee")) < 2:
            keys = [old.keys[int(row)].encode() for row in rows[:4]]
            set_columns(self.stores[0], keys, {"label": ["ant", "ant", "bee", "bee"]})

    def refresh(self, commands: list[str]) -> None:
        """Run the command lines ``commands``, but call extract in Python, because no command line can name the tiny
        backbone."""
        for line in commands:
            words = shlex.split(line)
            assert words[0] == "featstore"
            if words[1] == "extract":
                self.extract(Path(words[3]), Path(words[2]))
            else:
                assert featstore.main(words[1:], standalone_mode=False) in (0, None), line


def stale_in(folder: Path) -> set[str]:
    found = info(folder)
    assert found["unread"] == []
    assert all(not each["unknown"] for each in found["artifacts"])
    return {os.path.basename(each["path"]) for each in found["artifacts"] if each["stale"]}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_freshness_report_lists_exactly_the_stale_artifacts(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
):
    random = np.random.default_rng(seed)
    place = Place(tmp_path)
    place.denied = {}
    assert stale_in(tmp_path) == set()
    refreshed = 0
    for step in range(STEPS):
        store = place.stores[int(random.integers(len(place.stores)))]
        keys = list(FeatureStore.open(store).keys)
        some = [keys[at] for at in random.choice(len(keys), 2, replace=False)]
        action = str(
            random.choice(["add", "change", "label", "undo", "remove", "purge", "compact", "again", "refresh"])
        )
        if action in ("add", "change"):
            name = f"bee/new{step}.png" if action == "add" else FeatureStore.open(place.stores[0]).keys[0]
            write_coloured(place.pictures, [name], seed=100 + step)
            place.extract(place.stores[0])
        elif action == "label" and store.name != "follows":
            set_columns(store, [key.encode() for key in some], {"label": ["ant", "bee"]})
        elif (
            action == "undo"
            and store.name == "old"
            and any(each.origin == "user" and not each.undone_by for each in label_history(store)[3:])
        ):
            undo_label(store)
        elif action in ("remove", "purge") and len(keys) > 7:
            remove(store, some[:1])
            place.denied.setdefault(store, []).append(some[0])
            if action == "purge":
                purge(store)
                for name in place.seen:
                    path = tmp_path / "sub" / name
                    if not path.exists():
                        raise AssertionError(path)
        elif action == "compact":
            compact(store)
        elif action == "again":
            place.extract(store)
        assert stale_in(tmp_path) == place.expected(), (step, action, store)
        if action == "refresh" or step == STEPS - 1:
            place.make_trainable()
            assert stale_in(tmp_path) == place.expected(), (step, "make trainable")
            place.refresh(info(tmp_path)["commands"])
            assert stale_in(tmp_path) == set(), info(tmp_path)
            for name, (of, _) in place.seen.items():
                place.seen[name] = (of, place.rows(of, splits=name.endswith(".head")))
                if name.endswith(".faiss"):
                    opened = FeatureIndex.open(tmp_path / "sub" / name)
                    store_now = FeatureStore.open(of)
                    assert opened.labels_of(store_now.ids) == store_now.labels.tolist()
            refreshed += 1
    assert refreshed
    capsys.readouterr()


def test_html_page_is_stale_if_its_store_or_index_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_coloured(tmp_path / "p", names("", 3))
    store = make_store(folder, tmp_path / "s")
    path = index(store, out=tmp_path / "s.faiss").path
    arguments = ["search", path, "--key", "ant/00.png", "--html", str(tmp_path / "page.html")]
    monkeypatch.setattr("sys.argv", ["/bin/featstore", *arguments])

    def make() -> None:
        write_search_page(search(path, like=Query(keys=["ant/00.png"])), tmp_path / "page.html")

    make()
    assert stale_in(tmp_path) == set()
    set_columns(store, [b"ant/00.png"], {"label": ["bee"]})
    assert stale_in(tmp_path) == {"s.faiss", "page.html"}
    commands = info(tmp_path)["commands"]
    assert commands[0] == shlex.join(["featstore", "index", str(store), "--update"])
    assert shlex.join(["featstore", *arguments]) in commands[1]
    index(store, out=path, update=True)
    assert stale_in(tmp_path) == {"page.html"}
    make()
    assert stale_in(tmp_path) == set()


def test_freshness_report_lists_unreadable_artifacts_and_follows_no_links(tmp_path: Path):
    store = make_store(write_coloured(tmp_path / "elsewhere", names("", 3)), tmp_path / "elsewhere" / "s")
    folder = tmp_path / "looked-at"
    shutil.copytree(store, folder / "damaged")
    (folder / "damaged" / "featstore.json").write_bytes(b"{}")
    (folder / "link").symlink_to(store)
    train(store, folds=2, held_out=0.34, out=folder / "a.head")
    (folder / "b.head").write_bytes((folder / "a.head").read_bytes()[:2000])
    (folder / "note.html").write_text("<p>not featstore's")
    found = info(folder)
    assert [(each["kind"], each["stale"], each["unknown"]) for each in found["artifacts"]] == [("head", "", "")]
    assert len(found["unread"]) == 2
    told = "\n".join(found["unread"])
    assert "damaged/featstore.json: not a JSON file" in told
    assert "b.head: has 2,000 bytes" in told
    shutil.move(store, tmp_path / "moved")
    (lone,) = info(folder)["artifacts"]
    assert lone["unknown"] == f"its store {store} is not there"
    with pytest.raises(UsageError, match="no feature store is here"):
        info(tmp_path / "elsewhere" / "ant")


@pytest.mark.parametrize(
    "changes",
    [{"stores": 7}, {"stores": [7]}, {"files": 7}, {"files": ["x"]}, {"command": {}}, {"folder": 7}],
    ids=str,
)
def test_html_pages_with_a_damaged_description_are_listed_as_unreadable(tmp_path: Path, changes: dict[str, object]):
    about = {"stores": [], "files": [], "command": [], "folder": "", **changes}
    (tmp_path / "page.html").write_text(f'<meta name="featstore" content="{html.escape(json.dumps(about))}">')
    assert info(tmp_path)["unread"] == [f"{tmp_path / 'page.html'}: the description in the page is damaged"]


@pytest.mark.parametrize("past", [7, "x", [["x"]], [None], [{"store_id": {}}], {"store_id": "x"}], ids=str)
@pytest.mark.parametrize("stacked", [7, ["x"], [{}]], ids=str)
def test_malformed_origin_fields_of_heads_and_indexes_are_ignored(past: object, stacked: object):
    origin = {"store_id": {"an": "object"}, "store": "s", "past": past}
    assert [parent.record for parent in _parents(origin, past)] == [{}]
    assert _parents({**origin, "stacked": stacked}, past) == ()
    assert _parents([origin], past) == ()


def test_store_with_pending_pictures_is_stale_and_so_are_its_artifacts(tmp_path: Path):
    from tests.store.building import Pictures, build, plan

    source = Pictures({f"a/{number}".encode(): number for number in range(4)}, location=str(tmp_path / "p"))
    build(tmp_path / "s", source)
    index(tmp_path / "s", out=tmp_path / "s.faiss")
    source.content[b"b/new"] = 1
    plan(tmp_path / "s", source)
    assert stale_in(tmp_path) == {"s", "s.faiss"}
    assert info(tmp_path)["commands"][0] == f"featstore extract {tmp_path / 'p'} {tmp_path / 's'}"


def test_store_that_follows_another_stores_labels_is_stale_after_that_store_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def told() -> str:
        assert featstore.main(["info", str(tmp_path)], standalone_mode=False) in (0, None)
        return capsys.readouterr().out

    old = make_store(write_coloured(tmp_path / "p", names("", 3)), tmp_path / "old")
    make_store(old, tmp_path / "follows", backbone=tiny_backbone(2), follow=True)
    make_store(old, tmp_path / "copy", backbone=tiny_backbone(3))
    assert told().endswith("nothing is stale\n")
    (tmp_path / "sub").mkdir()
    moved = old.rename(tmp_path / "sub" / "moved")
    assert stale_in(tmp_path) == {"follows"}
    assert f"{old}, whose labels it has, is at {moved} now" in told()
    (command,) = info(tmp_path)["commands"]
    assert featstore.main(shlex.split(command)[1:], standalone_mode=False) in (0, None)
    assert stale_in(tmp_path) == set()
    shutil.rmtree(moved)
    text = told()
    assert "nothing is stale" not in text
    assert f"not known: has the labels of {moved}, which is not there any more; if it moved: featstore extract" in text
    assert f"not known: its source {old} is not there" in text
    assert f"of {tmp_path / 'copy'}, {tmp_path / 'follows'} it is not known whether they are stale" in text
