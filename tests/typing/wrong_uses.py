"""Wrong uses of the public API; a user's ``mypy --strict`` finds each of them. This program is not run."""

from __future__ import annotations

from pathlib import Path

import featstore

featstore.extrakt("pictures/", "s")  # no such verb
featstore.extract("pictures/", "s", bach=16)  # no such option
featstore.extract("pictures/", "s", batch="16")  # a text where a number is needed
featstore.train("s").report.acuracy  # noqa: B018  # no such figure

store = featstore.FeatureStore.open("s")
store.spec  # noqa: B018  # no such attribute
store.index_of(3)  # a number where keys are needed
place: str = store.path_of("a.jpg")  # a Path, no str

head = featstore.load_head(Path("a.head"))
head.no_such_method()  # no such method
head.predict("a.jpg")  # a path where features are needed

index = featstore.FeatureIndex.open("s.faiss")
index.identity.backbone  # noqa: B018  # an index without an identity has None
featstore.search("s.faiss", "a.jpg", k="5")  # a text where a number is needed
featstore.predict(head, "pictures/").classes.append(1)  # a number where a text is needed
