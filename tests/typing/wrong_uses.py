"""Wrong uses of the public API; a user's ``mypy --strict`` finds each of them. This program is not run."""

from __future__ import annotations

from pathlib import Path

import featstore

featstore.extrakt("pictures/", "s")  # error: featstore has no function extrakt
featstore.extract("pictures/", "s", bach=16)  # error: extract has no option bach
featstore.extract("pictures/", "s", batch="16")  # error: batch must be a number
featstore.train("s").report.acuracy  # noqa: B018  # error: a report has no attribute acuracy

store = featstore.FeatureStore.open("s")
store.spec  # noqa: B018  # error: a store has no attribute spec
store.index_of(3)  # error: index_of needs keys, not a number
place: str = store.path_of("a.jpg")  # error: path_of returns a Path, not a str

head = featstore.load_head(Path("a.head"))
head.no_such_method()  # error: a head has no method of this name
head.predict("a.jpg")  # error: predict of a head needs features, not a path

index = featstore.FeatureIndex.open("s.faiss")
index.identity.backbone  # noqa: B018  # error: identity may be None
featstore.search("s.faiss", "a.jpg", k="5")  # error: k must be a number
featstore.units("s", "121")  # error: a unit is a number
featstore.predict(head, "pictures/").classes.append(1)  # error: classes is a list of str
