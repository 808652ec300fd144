from __future__ import annotations

from html.parser import HTMLParser

import featstore
from featstore.stages.queries import Query
from tests.pages.conftest import EVIL, hostile

__all__ = ["hostile"]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def test_repr_of_every_result_is_short(chain):
    index = featstore.FeatureIndex.open(chain.index)
    found = featstore.search(chain.index, like=Query(keys=["val/ant/02.png"]), k=30)
    predictions = featstore.predict(chain.trained.path, chain.store)
    head = featstore.load_head(chain.trained.path)
    things = [head, chain.trained, chain.trained.report, chain.trained.split, predictions, next(iter(predictions))]
    things += [found, found.queries[0], index, featstore.FeatureStore.open(chain.store)]
    things += [featstore.find_duplicates(chain.store), featstore.index(chain.store, out=chain.place / "n.faiss")]
    things += [featstore.units(chain.store, 0), featstore.units(chain.store, 0).units[0]]
    for thing in things:
        written = repr(thing)
        assert written.startswith("<")
        assert len(written) < 160 + 2 * len(str(chain.place)), written
        assert " object at 0x" not in written
    assert repr(head) == "<TrainedHead logreg: 2 classes, features of 8 values of tiny>"
    assert "accuracy 1.0000" in repr(chain.trained)


def test_notebooks_show_figures_and_pictures(chain):
    found = featstore.search(chain.index, like=Query(keys=["val/ant/02.png"]), k=5)
    shown = Tags(found._repr_html_())
    assert shown.tags.count("img") == 5
    for one in found.queries[0].neighbours:
        assert one.key in shown.text
        assert f"cosine {one.score:.3f}" in shown.text
    shown = Tags(featstore.units(chain.store, range(8), n=1, least=True)._repr_html_())
    assert shown.tags.count("img") == 16
    assert "unit 7, least" in shown.text
    shown = Tags(chain.trained._repr_html_())
    for text in ("accuracy", "macro f1", "95 % interval", f"{chain.trained.report.accuracy.low:.4f}"):
        assert text in shown.text
    shown = Tags(featstore.FeatureStore.open(chain.store)._repr_html_())
    for text in ("30 with a vector, 0 failures, 0 pending", "tiny", "label"):
        assert text in shown.text


def test_notebooks_escape_names_of_pictures_and_classes(hostile):
    _, store, trained, index = hostile
    found = featstore.search(index, like=Query(labels=["<script>alert(2)<"]), k=24)
    units = featstore.units(store, 0, n=48)
    for thing in (found, trained, units, featstore.FeatureStore.open(store)):
        assert set(Tags(thing._repr_html_()).tags) <= {"p", "b", "br", "div", "img", "table", "tr", "td", "th"}
    assert EVIL.replace("\n", "\\n") in Tags(found._repr_html_()).text
