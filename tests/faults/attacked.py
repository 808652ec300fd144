"""The commands that the tests run on each kind of forged file, and the commands that make the files to forge.

A forged file is a file that an attacker changed, with valid checksums.
"""

from __future__ import annotations

NETWORK = "--backbone squeezenet1_1 --weights random:{} --engine torch --in-process --quiet"
CUT = "--tiles 12 --size 64 --fit pad --layer features.5 --pool avg --unit-rows 30"
PICTURE, FOLDER = "../home/pictures/cat/01.png", "../home/pictures"
VERBS: dict[str, dict[str, str]] = {
    "store": {
        "info store": "",
        "verify store": "",
        "failures store --csv": "",
        "label store --history": "",
        "duplicates store --html ../out/d.html": "",
        "predict a.head store": "",
        "train store --out ../out/h --C 1 --report ../out/t.html": "",
        "train --again a.head": "",
        "index store --out ../out/i": "",
        "search an.index --key cat/01.png --html ../out/s.html": "",
        "export store --out ../out/e": "",
        "export store --to npy --out ../out/n": "",
        "export store --to csv --out ../out/c": "",
        f"extract store ../out/new {NETWORK.format(1)}": "",
        f"extract store ../out/following --follow {NETWORK.format(1)}": "",
        "label ../out/following --history": "",
        f"extract ../out/new ../out/third {NETWORK.format(2)}": "",
        "index store --update --out an.index": "an.index",
        "label store ../home/labels.csv": "store",
        "label store --undo": "store",
        "repair store --engine torch": "store",
        "repair store --set-aside": "store",
        "compact store": "store",
        "remove store cat/02.png": "store",
        "remove store --purge": "store",
        "info .": "",
        f"extract {FOLDER} store {NETWORK.format(0)}": "store",
    },
    "head": {
        "info a.head": "",
        "verify a.head": "",
        "predict a.head store": "",
        "predict a.head store --csv": "",
        f"predict a.head {PICTURE} {FOLDER} --engine torch --quiet": "",
        "train --again a.head": "",
        "export a.head --sklearn --out ../out/x.joblib": "",
        "export a.head --onnx --features-only --out ../out/f.onnx": "",
        "export a.head --onnx --out ../out/n.onnx": "",
        "train --update a.head store": "a.head",
        "train store --out a.head --C 1": "a.head",
    },
    "index": {
        "info an.index": "",
        "verify an.index": "",
        "search an.index --key cat/01.png --html ../out/s.html": "",
        "search an.index --like-label cat --k 5": "",
        "search an.index --key cat/01.png --where \"label == 'cat' and not key glob 'd*'\"": "",
        f"search an.index {PICTURE} --engine torch": "",
        "import an.index ../out/imported --identity x --keys ../home/keys.txt": "",
        "index store --update --out an.index": "an.index",
        "index store --out an.index": "an.index",
    },
    "export": {
        "import an.export ../out/back": "",
        "import an.export/vectors.npy ../out/again --identity x --keys an.export/rows.parquet": "",
        "info ../out/back": "",
        "export store --to npy --out an.export": "an.export",
        "import a.parquet ../out/parquet": "",
        "export store --out a.parquet": "a.parquet",
    },
    "vectors": {
        f"import vectors/{name} ../out/{name} --identity x --keys vectors/keys.txt": ""
        for name in ("v.npy", "v.npz", "v.h5", "v.faiss")
    }
    | {
        "import vectors/v.parquet ../out/v.parquet --identity x": "",
        "info ../out/v.parquet": "",
        "label store vectors/table.parquet": "store",
    },
    "demo": {
        "demo demo --limit 40 --engine torch": "demo",
        "sample digits demo/digits": "demo",
    },
    "regions": {
        "info cut": "",
        "verify cut": "",
        "failures cut --csv": "",
        "duplicates cut --html ../out/d.html": "",
        "train cut --out ../out/h --C 1 --report ../out/t.html": "",
        "predict cut.head cut --by parent --csv": "",
        "index cut --out ../out/i": "",
        "search cut.index --key cat/01.png#0,0,12,12 --by parent --html ../out/s.html": "",
        "export cut --out ../out/e": "",
        "import ../out/e ../out/back": "",
        "export cut --to csv --out ../out/c": "",
        f"extract cut ../out/new {NETWORK.format(1)} --size 64": "",
        "index cut --update --out cut.index": "cut.index",
        "train --update cut.head": "cut.head",
        "label cut ../home/labels.csv": "cut",
        "repair cut --engine torch": "cut",
        "compact cut": "cut",
        "remove cut cat/02.png": "cut",
        "remove cut --purge": "cut",
        f"extract {FOLDER} cut {CUT} {NETWORK.format(0)}": "cut",
    },
    "follower": {
        verb.replace("../out/", f"../out/{name}-").replace("follower", name): change.replace("follower", name)
        for name in ("follower", "taken")
        for verb, change in {
            "info follower": "",
            "verify follower": "",
            "label follower --history": "",
            "failures follower": "",
            "train follower --out ../out/h --C 1 --report ../out/t.html": "",
            "export follower --to csv --out ../out/c": "",
            f"extract follower ../out/new {NETWORK.format(1)}": "",
            f"extract follower ../out/following --follow {NETWORK.format(1)}": "",
            "label follower ../home/labels.csv": "follower",
            "label follower --undo": "follower",
            "repair follower --engine torch": "follower",
            "compact follower": "follower",
            "remove follower cat/02.png --purge": "follower",
            f"extract store follower {'--follow ' if name == 'follower' else ''}{NETWORK.format(1)}": "follower",
        }.items()
    }
    | {"info .": ""},
    "lineage": {
        "info .": "",
        "info . --json": "",
        "info a.head": "",
        "info an.index": "",
        "train --again a.head": "",
        "train --again a.head store": "",
        "predict a.head store": "",
        "search an.index --key cat/01.png --html ../out/s.html": "",
        f"search an.index {PICTURE} --engine torch": "",
        "train --update a.head": "a.head",
        "train --update a.head store": "a.head",
        "train store --out a.head --C 1 --force": "a.head",
        "index store --update --out an.index": "an.index",
        # A purge also rewrites the heads and indexes in the folder that contains the store.
        "remove store cat/02.png --purge": "store a.head an.index",
        "remove store cat/02.png --purge --also page.html": "store a.head an.index",
    },
    "removed": {
        "info less": "",
        "verify less": "",
        "label less --history": "",
        "train less --out ../out/h --C 1": "",
        f"extract less ../out/new {NETWORK.format(1)}": "",
        "label ../out/new --history": "",
        "export less --out ../out/e": "",
        "label less --undo": "less",
        "remove less dog/03.png": "less",
        "remove less cat/04.png --restore": "less",
        "remove less --purge": "less",
        "remove less --where \"label == 'cat'\" --dry-run": "less",
        "compact less": "less",
        "repair less --set-aside": "less",
        f"extract {FOLDER} less {NETWORK.format(0)}": "less",
    },
    "named": {
        "info named/x.head": "",
        "verify named/x.head": "",
        "info named": "",
        "predict named/x.head store": "",
        f"predict named/x.head {PICTURE} --engine torch --csv": "",
        "export named/x.head --sklearn --out ../out/x.joblib": "",
        "export named/x.head --onnx --features-only --out ../out/f.onnx": "",
        "train --again named/x.head": "",
        "train --again named/x.head store --head sklearn.neighbors:KNeighborsClassifier": "",
        "train --update named/x.head store": "named",
        "train --update named/x.head store --head sklearn.neighbors:KNeighborsClassifier": "named",
    },
    "perceptron": {
        "info mlp.head": "",
        "verify mlp.head": "",
        "predict mlp.head store": "",
        "predict mlp.head store --csv": "",
        "export mlp.head --sklearn --out ../out/x.joblib": "",
        "export mlp.head --onnx --features-only --out ../out/f.onnx": "",
        "train --again mlp.head": "",
        "train --update mlp.head store": "mlp.head",
        "train store --head mlp --hidden 4 --set epochs=2 --out mlp.head": "mlp.head",
    },
    "model": {
        "info a.model": "",
        "info .": "",
        "backbones a.model": "",
        "predict a.model store": "",
        f"predict a.model {PICTURE} --engine torch --quiet": "",
        f"predict a.head {PICTURE} --weights a.model --engine torch --quiet": "",
        f"extract {FOLDER} ../out/new --backbone a.model --engine torch --in-process --quiet": "",
        f"extract {FOLDER} ../out/other --backbone squeezenet1_1 --weights a.model --engine torch --in-process --quiet": "",
        "export a.model --onnx --features-only --out ../out/f.onnx": "",
        "export a.model --onnx --out ../out/n.onnx": "",
        "export a.model --sklearn --out ../out/x.joblib": "",
    },
    "identity": {
        "info store": "",
        "info a.head": "",
        "info .": "",
        "verify store": "",
        "predict a.head store": "",
        f"predict a.head {PICTURE} --engine torch": "",
        "predict store --prompts ../home/classes.txt": "",
        f"search an.index {PICTURE} --engine torch": "",
        'search an.index --text "a red car"': "",
        "export a.head --onnx --out ../out/n.onnx": "",
        "export store --out ../out/e": "",
        "import ../out/e ../out/back": "",
        "train store --out ../out/h --C 1 --report ../out/t.html": "",
        f"extract store ../out/new {NETWORK.format(1)}": "",
        "repair store --engine torch": "store",
        f"extract {FOLDER} store {NETWORK.format(0)}": "store",
        f"extract {FOLDER} store --engine torch --in-process --quiet": "store",
    },
    "imported": {
        "info foreign": "",
        "verify foreign": "",
        "duplicates foreign": "",
        "index foreign --out ../out/i": "",
        "search ../out/i --key cat/01.png": "",
        "export foreign --out ../out/e": "",
        "import ../out/e ../out/back": "",
        "repair foreign": "foreign",
        "label foreign ../home/labels.csv": "foreign",
        "remove foreign cat/02.png --purge": "foreign",
        "compact foreign": "foreign",
        "import vectors/v.parquet foreign --identity x": "foreign",
    },
}
"""Commands to run for each kind of forged file, with the names of the files that a command may change.

``backbones`` is missing because it reads no file of another person, and ``bench`` because it takes minutes and reads
pictures as ``extract`` does.
"""
REFUSED = frozenset(
    {
        "label cut ../home/labels.csv",
        "label follower ../home/labels.csv",
        "label follower --undo",
        f"extract follower ../out/follower-following --follow {NETWORK.format(1)}",
        "export named/x.head --onnx --features-only --out ../out/f.onnx",
        "train --again named/x.head",
        "train --update named/x.head store",
        "predict store --prompts ../home/classes.txt",
        'search an.index --text "a red car"',
    }
)
"""Commands that end with an error even if all files are intact."""
_REMOVED = f"extract {FOLDER} less --unit-rows 6 {NETWORK.format(0)}"
MADE: dict[str, tuple[str, ...]] = {
    "demo": ("demo demo --limit 40 --engine torch",),
    "regions": (
        f"extract {FOLDER} cut {CUT} {NETWORK.format(0)}",
        "train cut --out cut.head --C 1 --folds 2",
        "index cut --out cut.index",
    ),
    "follower": (
        f"extract store follower --follow {NETWORK.format(1)}",
        f"extract store taken {NETWORK.format(1)}",
    ),
    "lineage": ("duplicates store --html page.html",),
    "removed": (
        _REMOVED,
        "label less ../home/labels.csv",
        "remove less cat/03.png cat/04.png",
        "compact less",
        "remove less dog/05.png --purge",
        "label less ../home/labels.csv",
        "label less --undo",
        "remove less dog/06.png",
    ),
    "named": tuple(
        f"train store --head sklearn.{name} --out named/{name.rpartition(':')[2]}.head"
        for name in (
            *("discriminant_analysis:LinearDiscriminantAnalysis", "svm:SVC", "neighbors:KNeighborsClassifier"),
            *("naive_bayes:GaussianNB", "linear_model:SGDClassifier"),
        )
    ),
    "perceptron": ("train store --head mlp --hidden 8 --hidden 4 --set epochs=3 --out mlp.head",),
    "imported": ("import vectors/v.npy foreign --identity x --keys ../home/keys.txt",),
}
"""Commands that make the files to forge, by kind; a store, a head, an index and exports are made for every kind."""
