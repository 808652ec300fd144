"""Forge the records in featstore's files: change values and keep the checksums valid.

The records describe regions, source stores, origins, removals, identities, imports and classifiers.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from featstore.files import atomic, sealed
from featstore.files.byte_columns import ByteColumn
from featstore.files.model_folder import record_of
from featstore.store.keys import KeyIndex, digests
from tests.faults.changes import ATTACK, MODULE, NUMBERS, Changes
from tests.faults.sandbox import Ground

MODULES = (MODULE, "os", "builtins", "subprocess", "sklearn.tree._tree", "numpy", ATTACK, "", "..", "pickle")
CLASSES = ("Classifier", "system", "eval", "Popen", "Tree", "load", "ndarray", ATTACK, "", "loads")
LOADERS = (
    "FunctionNode",
    "MethodNode",
    "ObjectNode",
    "ReduceNode",
    "TypeNode",
    "PartialNode",
    "JsonNode",
    "NdArrayNode",
)
NETWORKS = ("resnet18", "open_clip/ViT-B-32", "timm/resnet18.a1_in1k", f"{MODULE}", "../x", "a:b", "random", "resnet50")


class RecordsForger(Changes):
    """Change at random what stores, heads and indexes record about regions, other stores, networks and classifiers."""

    def forge_model(self, to: Ground) -> str:
        """Change a part of a model folder; size and SHA-256 in its description fit the changed file."""
        model = to.theirs / "a.model"
        kind = self.draw.choice(("odd", "described", "described", "named", "head", "weights", "tensors"))
        if kind == "odd":
            name = self.draw.choice(sorted(path.name for path in model.iterdir()))
            self._replace(model / name, self.draw.choice(("link", "odd type")), to.home)
            return f"{kind} {name}"
        about = atomic.read_json(model / "model.json")
        weights = model / "weights.safetensors"
        if kind == "described":
            about = self._json(about)
        elif kind == "named":
            about[self.draw.choice(("architecture", "layer"))] = self.draw.choice((*NETWORKS, f"output of {ATTACK}"))
        elif kind == "head":
            kind += f": {self._seal(model / 'model.head')}"
        elif kind == "weights":
            weights.write_bytes(self._numbers(weights.read_bytes()))
        else:
            state = load_file(weights)
            name = self.draw.choice(sorted(state))
            state[self.draw.choice((name, ATTACK, f"{name}x"))] = self._array(state[name])
            save_file(state, weights)
        if isinstance(about.get("files"), dict):
            for name, each in about["files"].items():
                if isinstance(each, dict) and (model / name).is_file() and self.draw.random() < 0.9:
                    each |= vars(record_of(model / name))
        atomic.write_json(model / "model.json", about)
        return kind

    def forge_regions(self, to: Ground) -> str:
        """Change the boxes, keys, manifest or another value of a store of regions, or a value of its head or index."""
        store = to.theirs / "cut"
        kind = self.draw.choice(("boxes", "boxes", "parents", "keys", "keys", "seal", "head", "index", "requires"))
        if kind == "head":
            return f"{kind}: {self._seal(to.theirs / 'cut.head')}"
        if kind == "index":
            return f"{kind}: {self._seal(to.theirs / 'cut.index.featstore')}"
        if kind == "requires":
            return self._manifest(store, requires=self._json(["regions", "layer"], 0))
        if kind == "keys":
            return self._keys(store)
        path = self.draw.choice(sorted(store.rglob("*.h5") if kind == "seal" else store.glob("plan/*/*.h5")))
        if kind == "seal":
            return f"{kind} {path.relative_to(store)}: {self._seal(path)}"
        columns = range(5) if kind == "parents" else range(4)
        numbers = (*NUMBERS, 1 << 20, 12, 65535, -(1 << 31))

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            regions = arrays["region"]
            rows = range(len(regions)) if self.draw.random() < 0.3 else [self.draw.randrange(len(regions))]
            chosen = [4] if kind == "parents" else self.draw.sample(list(columns), self.draw.randrange(1, 5))
            value = [self.draw.choice(numbers) for _ in chosen]
            for row in rows:
                regions[row, chosen] = np.array(value, np.int64).astype(np.int32)
            return meta

        self._reseal(path, change)
        return f"{kind} {path.name}"

    def _keys(self, store: Path) -> str:
        """Rename a picture or a region in every file of the store; the lookup tables match the new name."""
        old = self._some_key(store)
        picture = old.partition(b"#")[0]
        hostile = ATTACK.encode()
        new = self.draw.choice(
            (
                picture + b"#" + hostile,
                hostile,
                b"",
                b"#",
                picture,
                b"../../home/letter.txt#0,0,9,9",
                b"/etc/passwd#1",
                picture + b"#\x00",
                picture + b"#" + b"x" * 70000,
                b"\xff\xfe#\xff",
                picture + b"#\xe2\x80\xae\xc2\x9b2J",
            )
        )
        for path in sorted(store.rglob("*.h5")):

            def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
                for name in ("keys", "failures/keys"):
                    if f"{name}/bytes" not in arrays:
                        continue
                    column = ByteColumn(arrays[f"{name}/bytes"], arrays[f"{name}/offsets"])
                    keys = [new if key == old else key for key in column]
                    arrays.update(ByteColumn.of(keys).arrays(name))
                    if name == "keys" and "lookup/hi" in arrays:
                        arrays.update(KeyIndex.build(digests(keys)).arrays())
                return meta

            if sealed.begins_like_one(path):
                self._reseal(path, change)
        return f"key {old!r} is {new[:40]!r}"

    def _some_key(self, store: Path) -> bytes:
        path = self.draw.choice(sorted(store.glob("plan/*/*.h5")))
        file = sealed.SealedFile(path)
        keys = list(ByteColumn.read(file, "keys"))
        return self.draw.choice(keys) if keys else b"x"

    def _manifest(self, store: Path, **changes: Any) -> str:
        """Write ``changes`` and the fingerprint of the new identity into the manifest featstore.json, so that both
        match."""
        value = atomic.read_json(store / "featstore.json") | changes
        fingerprint = hashlib.sha256(atomic.canonical_json(value["identity"]).encode()).hexdigest()
        atomic.write_json(store / "featstore.json", value | {"fingerprint": fingerprint})
        return f"manifest {sorted(changes)}"

    def _place(self) -> str:
        """Return a random path to write into a forged record: a file of the user, a pipe or an odd name."""
        home, theirs = self.ground.home, self.ground.theirs
        pipe = theirs / "a.pipe"
        if not pipe.exists():
            os.mkfifo(pipe)
        paths = (home / "store", home / "documents", home / "letter.txt", theirs / "follower", theirs / "store", pipe)
        names = (
            "../../home/store",
            "../home/store",
            "/dev/zero",
            "",
            ".",
            "\0",
            "x" * 5000,
            ATTACK,
            f"~/{ATTACK}",
            "/",
        )
        return self.draw.choice((*map(os.fspath, paths), *names))

    def _id(self) -> str:
        """Return at random the id of a store of the attacker or of a store of the user."""
        theirs = self.ground.theirs / "store"
        store = self.draw.choice((self.ground.home / "store", *([theirs] if theirs.exists() else [])))
        return str(atomic.read_json(store / "featstore.json")["store_id"])

    def forge_follower(self, to: Ground) -> str:
        """Change the records of a store made from another store: the path and id of its source store, or its tables."""
        store = to.theirs / self.draw.choice(("follower", "follower", "taken"))
        tables, plans = sorted(store.glob("tables/*/*.h5")), sorted(store.glob("plan/*/*.h5"))
        if self.draw.random() < 0.25:
            path = self.draw.choice([*tables, *plans])
            return f"{path.relative_to(store)}: {self._seal(path)}"
        path, field = (tables[0], "follows") if store.name == "follower" else (self.draw.choice(tables), "of")
        if self.draw.random() < 0.4:
            path, field = self.draw.choice(plans), "source"
        told = [field]

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            record = dict(meta.get(field) or {})
            places = [name for name in ("store", "relative", "location", "root") if name in record]
            for name in self.draw.sample(places, self.draw.randrange(1, len(places) + 1) if places else 0):
                record[name] = self._place()
                told.append(record[name][:60])
            if "store_id" in record and self.draw.random() < 0.6:
                record["store_id"] = self._id()
            if self.draw.random() < 0.2 or not places:
                record = self._json(record)
            return {**meta, field: record}

        self._reseal(path, change)
        return f"{store.name}: {' '.join(told)}"

    def forge_lineage(self, to: Ground) -> str:
        """Change the records of a head, an index or a page about the stores and options with which it was made."""
        kind = self.draw.choice(("head", "head", "request", "request", "index", "page"))
        if kind == "page":
            page = to.theirs / "page.html"
            start, _, rest = page.read_text().partition('<meta name="featstore" content="')
            text, _, rest = rest.partition('">')
            about = self._json(json.loads(text.replace("&quot;", '"').replace("&#34;", '"')))
            stores = about.get("stores") if isinstance(about, dict) and self.draw.random() < 0.7 else []
            for each in stores if isinstance(stores, list) else []:
                if isinstance(each, dict):
                    each |= {"store": self._place(), "store_id": self._id()}
            quoted = json.dumps(about).replace("&", "&amp;").replace('"', "&quot;")
            page.write_text(f'{start}<meta name="featstore" content="{quoted}">{rest}')
            return kind
        path, told = to.theirs / ("an.index.featstore" if kind == "index" else "a.head"), [kind]
        options = ("out", "store", "head", "report", "force", "kind", "meta", "groups", "fingerprint", "k", "n_jobs")
        whole = ("head", "train_split", "test_split", "held_out", "C", "class_weight", "folds", "seed", "apart")

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            about = dict(meta["identity" if kind == "index" else "about"])
            if kind == "request":
                request = dict(about["request"])
                values = (
                    *NUMBERS,
                    self._place(),
                    "all",
                    0.5,
                    None,
                    [],
                    {},
                    f"{MODULE}:Classifier",
                    1e308,
                    float("nan"),
                )
                value = self.draw.choice(values)
                if self.draw.random() < 0.5:
                    name = self.draw.choice(options)
                    request["options"] = {name: value}
                else:
                    name = self.draw.choice(whole)
                    request[name] = value
                told.append(f"{name}={str(value)[:60]}")
                about["request"] = request
            else:
                origin = {**about["origin"], "store": self._place(), "store_id": self._id()}
                about["origin"] = self.draw.choice((origin, {"stacked": [origin, origin]}, self._json(origin)))
                told.append(str(about["origin"])[:80])
            return {**meta, ("identity" if kind == "index" else "about"): about}

        self._reseal(path, change)
        return " ".join(told)

    def forge_removed(self, to: Ground) -> str:
        """Change the records of removed pictures, the history of the store, or the versions of its labels."""
        store = to.theirs / "less"
        kind = self.draw.choice(("denied", "denied", "meta", "history", "labels", "link", "keys"))
        if kind == "keys":
            return self._keys(store)
        if kind == "link":
            path = self.draw.choice([*sorted(store.glob("history/*")), store / "history"])
            self._replace(path, self.draw.choice(("link", "odd type")), to.home)
            return f"{kind} {path.name}"
        where = {"history": "history/*.h5", "labels": "tables/*/*.h5"}.get(kind, "plan/*/*.h5")
        path = self.draw.choice(sorted(store.glob(where)))
        told = [kind, path.name]

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            names = sorted(
                name for name in arrays if kind != "denied" or name.startswith(("denied/", "allowed/", "ret"))
            )
            if kind != "meta" and names and self.draw.random() < 0.6:
                name = self.draw.choice(names)
                told.append(name)
                arrays[name] = self._array(arrays[name])
                return meta
            odd = {
                "salt": ("", "00", "zz" * 16, "ab" * 16, ATTACK, None, 7),
                "reverts": (*NUMBERS, "1", None, [1]),
                "states": ([], [[1, 2, "x", 0]], [[1 << 62, 1 << 62, "2026-01-01", -9]], 7),
                "versions": NUMBERS,
                "ended": ("", ATTACK, "9999-99-99", 5, "0001-01-01T00:00:00+23:59"),
                "created": ("", ATTACK, "2026-01-01T00:00:00", None),
                "generation": ([], [1 << 62, 0], ATTACK, None),
                "epoch": NUMBERS,
                "of": ({"store_id": self._id(), "version": 1 << 70}, 7, {"store_id": ATTACK, "version": -1}),
                "follows": ({"store": self._place(), "relative": self._place(), "store_id": self._id()},),
            }
            name = self.draw.choice(sorted(odd))
            told.append(name)
            return {**meta, name: self.draw.choice(odd[name])}

        self._reseal(path, change)
        if "follows" in told:
            self._manifest(store, requires=["denylist", "follow", "history", "undo"])
        return " ".join(told)

    def forge_identity(self, to: Ground) -> str:
        """Change the identity (how features were computed) or the name of the weights.

        The store, its shards, a head and an index all get the same new value.
        """
        manifest = atomic.read_json(to.theirs / "store/featstore.json")
        identity, weights = dict(manifest["identity"]), manifest["weights_name"]
        kind = self.draw.choice(("backbone", "weights", "preprocessing", "layer", "pool", "requires", "any"))
        if kind == "backbone":
            identity["backbone"] = self.draw.choice((*NETWORKS, ATTACK))
            weights = self.draw.choice((weights, f"{MODULE}:build", "", "laion2b_s34b_b79k", "DEFAULT"))
        elif kind == "weights":
            letter = os.fspath(to.home / "letter.txt")
            weights = self.draw.choice((f"{MODULE}:build", letter, f"onnx:{letter}", "random:", "random:-1", ATTACK))
            identity["backbone"] = self.draw.choice((identity["backbone"], "own"))
        elif kind == "preprocessing":
            name = self.draw.choice((*identity["preprocessing"], "fit", "crop", "resize", ATTACK))
            odd = ("pad", "squash", ATTACK, 0, -1, 1 << 40, 1 << 14, [], [0, 0, 0], [float("1e308")] * 3, None, "crop")
            identity["preprocessing"] = {**identity["preprocessing"], name: self.draw.choice(odd)}
        elif kind == "layer":
            layers = ("output of features.5", "output of x", "input of x", "output", "imported", f"output of {ATTACK}")
            identity["layer"] = self.draw.choice((*layers, "output of __class__.__mro__", ""))
        elif kind == "pool":
            identity["pool"] = self.draw.choice(("none", "avg", "cls", "cls+mean", ATTACK))
            if identity["pool"] == "none":
                identity["shape"] = self.draw.choice(([512], [1, 512], [512, 1, 1], [1] * 2000 + [512], [2, 16, 16]))
        elif kind == "any":
            identity = self._json(identity)
        requires = self._json(["fit", "layer"]) if kind == "requires" else manifest["requires"]
        fingerprint = hashlib.sha256(atomic.canonical_json(identity).encode()).hexdigest()
        value = manifest | {"identity": identity, "weights_name": weights, "requires": requires}
        atomic.write_json(to.theirs / "store/featstore.json", value | {"fingerprint": fingerprint})

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            meta = meta | {"fingerprint": fingerprint}
            if "identity" in meta and isinstance(identity, dict):
                origin = meta["identity"].get("origin")
                beside = {} if origin is None else {"origin": {**origin, "weights_name": weights}}
                meta |= {"identity": {**identity, **beside}}
            if "about" in meta:
                origin = {**meta["about"]["origin"], "weights_name": weights}
                meta |= {"about": {**meta["about"], "origin": origin}}
            return meta

        for path in (*sorted((to.theirs / "store/shards").glob("*.h5")), to.theirs / "a.head"):
            self._summary(path, fingerprint)
            self._reseal(path, change)
        self._reseal(to.theirs / "an.index.featstore", change)
        return f"{kind}: {str([identity, weights, requires])[:300]}"

    def _summary(self, path: Path, fingerprint: str) -> None:
        file = sealed.SealedFile(path)
        arrays = {name: file[name].copy() for name in file.names if name != "meta"}
        kind, meta, summary = file.header["kind"], file.meta, file.summary
        if "fingerprint" in summary:
            path.unlink()
            sealed.write(path, kind, arrays, meta, {**summary, "fingerprint": fingerprint})

    def forge_imported(self, to: Ground) -> str:
        """Change the keys, the identity or another value of a store of imported vectors."""
        store = to.theirs / "foreign"
        kind = self.draw.choice(("keys", "seal", "seal", "identity"))
        if kind == "keys":
            return self._keys(store)
        if kind == "identity":
            return self._manifest(store, identity=self._json(atomic.read_json(store / "featstore.json")["identity"]))
        path = self.draw.choice(sorted(store.rglob("*.h5")))
        return f"{kind} {path.relative_to(store)}: {self._seal(path)}"

    def forge_named(self, to: Ground) -> str:
        """Change a head that holds a scikit-learn classifier; in most cases change the classifier itself."""
        path = self.draw.choice(sorted((to.theirs / "named").iterdir()))
        told, head = [path.name], to.theirs / "named/x.head"
        shutil.move(path, head)
        if self.draw.random() < 0.2:
            return f"{path.name}: {self._seal(head)}"

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            data, what = self._classifier(arrays["skops"].tobytes())
            told.append(what)
            arrays["skops"] = np.frombuffer(data, np.uint8)
            return meta

        self._reseal(head, change)
        return ": ".join(told)

    def forge_sets(self, to: Ground) -> str:
        """Forge a head of label sets: change any part of its file, an array, its labels, or its recorded target."""
        return self._targets(to.theirs / "sets.head", ("labels", "separator"))

    def forge_numbers(self, to: Ground) -> str:
        """Forge a head of numbers: change any part of its file, an array, its recorded target, or an option."""
        return self._targets(to.theirs / "numbers.head", ("target", "alpha", "alphas"))

    def _targets(self, path: Path, options: tuple[str, ...]) -> str:
        """Forge a head of label sets or numbers; ``options``: the options of ``train`` that chose the target."""
        told = [self.draw.choice(("seal", "array", "array", "classes", "task", "task", "option"))]
        if told[0] == "seal":
            return f"seal: {self._seal(path)}"

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            if told[0] == "array":
                name = self.draw.choice(sorted(arrays))
                array = arrays[name].copy()
                array.reshape(-1)[self.draw.randrange(array.size)] = self.draw.choice(
                    (0, 1, -1, 1e19, 1e308, np.nan, np.inf)
                )
                arrays[name] = self.draw.choice((array, array, array[:1], array.T.copy(), array.astype(np.float16)))
                told.append(name)
                return meta
            value = self.draw.choice(
                (*NUMBERS, None, "x", "", [], ["a"], {}, ATTACK, "label", "split", "key", "numbers")
            )
            if told[0] == "classes":
                told.append(f"{value!r}")
                return {**meta, "classes": self.draw.choice((value, [], ["a", "a"], ["a"], [ATTACK, "b", "c"]))}
            about = meta["about"]
            name = self.draw.choice((*options, "head") if told[0] == "option" else ("kind", "column", "separator"))
            told.append(f"{name}={value!r}")
            request = about["request"]
            if told[0] == "option":
                return {**meta, "about": {**about, "request": {**request, "options": {name: value}}}}
            task = self.draw.choice((value, {**request["task"], name: value}, {**request["task"], name: value}))
            return {**meta, "about": {**about, "task": task, "request": {**request, "task": task}}}

        self._reseal(path, change)
        return " ".join(told)

    def forge_perceptron(self, to: Ground) -> str:
        """Forge a multilayer perceptron: change any part of its file, its layers, or the options to train it again."""
        path, told = (
            to.theirs / "mlp.head",
            [self.draw.choice(("seal", "array", "array", "layers", "options", "options"))],
        )
        if told[0] == "seal":
            return f"seal: {self._seal(path)}"

        def change(arrays: dict[str, np.ndarray], meta: Any) -> Any:
            if told[0] == "array":
                name = self.draw.choice(sorted(arrays))
                array = arrays[name].copy()
                array.reshape(-1)[self.draw.randrange(array.size)] = self.draw.choice(
                    (0, -1, 1e19, 3e38, np.nan, 1e-38)
                )
                arrays[name] = self.draw.choice((array, array, array[:1], array.T.copy(), array.astype(np.float16)))
                told.append(name)
                return meta
            value = self.draw.choice((*NUMBERS, 2.0, 1e308, None, "x", [], [8] * 9, [1 << 40], {}))
            if told[0] == "layers":
                told.append(f"{value!r}")
                return {**meta, "numbers": {**meta["numbers"], "layers": value}}
            names = ("hidden", "dropout", "output", "balance", "epochs", "patience", "learning_rate", "batch_size")
            name = self.draw.choice((*names, "weight_decay", "validation_fraction", "memory_limit"))
            told.append(f"{name}={value!r}")
            about = meta["about"]
            return {**meta, "about": {**about, "request": {**about["request"], "options": {name: value}}}}

        self._reseal(path, change)
        return " ".join(told)

    def _classifier(self, data: bytes) -> tuple[bytes, str]:
        """Return a skops file with another schema or other arrays, and what was changed."""
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        schema = json.loads(members.pop("schema.json"))
        kind = self.draw.choice(("node", "node", "node", "json", "array", "numbers", "compressed", "twice", "deep"))
        what = kind
        if kind == "node":
            nodes, pending = list[dict[str, Any]](), [schema]
            while pending:
                node = pending.pop()
                nodes += [node] if isinstance(node, dict) and "__class__" in node else []
                pending += list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
            node = self.draw.choice(nodes)
            odd = {"__module__": MODULES, "__class__": CLASSES, "__loader__": LOADERS, "__id__": (*NUMBERS, None)}
            for name in self.draw.sample(list(odd), self.draw.randrange(1, 4)):
                node[name] = self.draw.choice(odd[name])  # type: ignore[index]
                what += f" {name}={node[name]!r}"
            if self.draw.random() < 0.4:
                node["content"] = self.draw.choice(([], {}, "x", 5, None, nodes[0], [nodes[-1]] * 3))
                what += " content"
        elif kind == "json":
            schema = self._json(schema)
        elif kind in ("array", "numbers") and members:
            name = self.draw.choice(sorted(members))
            change = self._numbers(members[name]) if kind == "numbers" or name[-4:] != ".npy" else None
            members[name] = change or self._npy(members[name], self.ground.home)
            what += f" {name}"
        try:
            text = json.dumps(schema)
        except (ValueError, RecursionError):
            text = "[" * 100_000
        if kind == "deep":
            text = '{"content": ' * 5000 + text + "}" * 5000
        made = io.BytesIO()
        way = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(made, "w", way) as file:
            for name, content in members.items():
                file.writestr(name, content)
            file.writestr("schema.json", text)
            if kind == "twice":
                file.writestr("../../home/letter.txt", "x")
        return made.getvalue(), what
