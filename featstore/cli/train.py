"""The command ``featstore train``: its options and its output."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from featstore import defaults
from featstore.cli.output import apart, json_option, show
from featstore.text import counted, did_you_mean, printable

if TYPE_CHECKING:
    from featstore.heads import TrainedHead
    from featstore.stages.train import TrainReport


def _c(_: click.Context, __: click.Parameter, value: str) -> float | str:
    try:
        number = "auto" if value == "auto" else float(value)
    except ValueError:
        number = -1.0
    if isinstance(number, float) and not 0 < number < float("inf"):
        raise click.BadParameter(f"{value!r} is neither auto nor a number above 0")
    return number


def _folds(_: click.Context, __: click.Parameter, value: str) -> int | float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if 0 < number < 1:
        return number
    if number >= 2 and number.is_integer():
        return int(number)
    raise click.BadParameter(f"{value!r} is neither a number of folds (2 or more) nor a share such as 0.1")


def _settings(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters of --set as a dict: Python literals as their values, any other text unchanged."""
    found: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        try:
            found[name] = ast.literal_eval(value)
            json.JSONEncoder(allow_nan=False).encode(found[name])
        except TypeError:
            raise click.BadParameter(
                f"{text!r}: a value is a number, text, True, False, None, a list or a dict"
            ) from None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[name] = value
    return found


@click.command()
@click.argument("store", type=click.Path(), required=False)
@click.option(
    "--store",
    "more",
    multiple=True,
    type=click.Path(),
    help="A store; repeat to concatenate the features of several, with labels and splits of the first.",
)
@click.option(
    "--head",
    metavar="logreg|linear-svm|rbf-svm|knn|mlp|ridge|PACKAGE.MODULE:CLASS",
    default="logreg",
    show_default=True,
    help="A featstore head (ridge only with --target), or any scikit-learn classifier, whose code is imported.",
)
@click.option(
    "--separator",
    metavar="TEXT",
    help="Learn label sets (logreg or mlp): TEXT stands between two labels of a picture, such as ';' in cat;dog.",
)
@click.option("--target", metavar="COLUMN", help="Predict the numbers of COLUMN by ridge regression (--head ridge).")
@click.option("--labels", metavar="COLUMN", help="With --separator: the column of the label sets.  [default: label]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_settings,
    help="A parameter of the head, such as n_estimators=500; repeat for several.",
)
@click.option(
    "--hidden",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="UNITS",
    help=f"mlp: units of a hidden layer; repeat for several layers.  [default: {defaults.MLP_HIDDEN[0]}]",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 0.999),
    help=f"mlp: share of hidden units left out in a training step.  [default: {defaults.MLP_DROPOUT}]",
)
@click.option(
    "--output",
    type=click.Choice(("softmax", "sigmoid")),
    help="mlp: softmax, or sigmoid for two classes or label sets.  [default: softmax; for label sets sigmoid]",
)
@click.option(
    "--balance",
    type=click.Choice(("none", "weights", "sampler")),
    help="mlp: weights is --balanced; sampler (not with --separator) draws all classes equally often.  [default: none]",
)
@click.option("--out", type=click.Path(), help="File of the head (default: STORE.HEAD.head beside the store).")
@click.option("--force", is_flag=True, help="Replace a head that has other classes or is of another store.")
@click.option("--train-split", help="Split to train on (default: train, if the store has it).")
@click.option("--test-split", help="Split to evaluate on (default: test or val, if the store has it).")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=defaults.HELD_OUT,
    show_default=True,
    help="Share to hold out if there are no such splits: stratified, pictures of equal bytes on one side.",
)
@click.option(
    "--C",
    "C",
    default="auto",
    callback=_c,
    show_default=True,
    help="Inverse strength of the regularisation; auto: chosen by cross-validation on the training pictures.",
)
@click.option("--balanced", is_flag=True, help="Give every class the same weight, whatever its number of pictures.")
@click.option(
    "--folds",
    default=str(defaults.FOLDS),
    callback=_folds,
    show_default=True,
    help="Folds of the cross-validation; a share such as 0.1 holds out that share once instead.",
)
@click.option("--seed", type=int, default=defaults.SEED, show_default=True)
@click.option("--apart", is_flag=True, help="Let regions of one picture be on both sides of splits and folds.")
@click.option("--views", is_flag=True, help="Also learn from the augmented views of STORE (extract --views).")
@click.option("--report", type=click.Path(dir_okay=False), metavar="PAGE.html", help="Write a page with the figures.")
@click.option("--beside", is_flag=True, help="Also write the page's figures as PNG files and JSON beside it.")
@click.option("--root", type=click.Path(), help="Where the pictures are now, for the page, if they moved.")
@click.option(
    "--again",
    type=click.Path(dir_okay=False),
    metavar="HEAD",
    help="Train HEAD again on the rows, labels and settings that it recorded, and compare the weights bit for bit.",
)
@click.option(
    "--update",
    type=click.Path(dir_okay=False),
    metavar="HEAD",
    help="Train HEAD with its recorded settings on its stores as they are now, and replace it.",
)
@json_option
def train(
    store: str | None,
    more: tuple[str, ...],
    as_json: bool,
    report: str | None,
    beside: bool,
    root: str | None,
    balanced: bool,
    again: str | None,
    settings: dict[str, Any],
    update: str | None,
    **options: Any,
) -> int:
    """Train a classifier on the labelled pictures of STORE, and evaluate it on held-out pictures.

    An existing head file with the same classes and store is replaced; the output compares the old and the new head.

    With --separator, a picture has a set of labels, and each label is learnt against all others. A text of separators
    alone is the empty set; a picture without a text is left out. Thresholds are chosen on the training pictures.

    With --target, ridge regression predicts numbers; alpha is chosen by cross-validation, or set by --set alpha=10.
    Pictures without a number are left out and counted.

    --again HEAD trains an earlier head again, on the rows, labels and splits that its store had at that time, and
    compares the weights. Pictures that were purged since are listed. The new head is saved only with --out. The exit
    code is 1 if a weight differs.

    \b
    Examples:
      featstore train my.store
      featstore train my.store --head rbf-svm --report page.html
      featstore train my.store --train-split train --test-split val --C 0.01 --out my.head
      featstore train --store resnet50.store --store efficientnet.store --report page.html --beside
      featstore train my.store --labels tags --separator ";" --head mlp --report page.html
      featstore train my.store --target age --report page.html
      featstore train my.store --head mlp --hidden 512 --hidden 128 --balance sampler
      featstore train my.store --head mlp --views
      featstore train my.store --head sklearn.discriminant_analysis:LinearDiscriminantAnalysis
      featstore train my.store --head sklearn.ensemble:RandomForestClassifier --set n_estimators=500 --set max_features=sqrt
      featstore train --again my.head
      featstore train --update my.head
    """
    from featstore.stages.train import retrain
    from featstore.stages.train import train as run

    stores = [*([store] if store is not None else []), *more]
    context = click.get_current_context()
    kind = options["head"] if _was_given(context, "head") else None
    if again is not None:
        _require_only(context, "again", "out", "head")
        return _again(again, stores, kind, options["out"], as_json)
    _require_place_of_figures(beside, report)
    if update is not None:
        _require_only(context, "update", "report", "beside", "root", "head")
        trained = retrain(update, stores, kind=kind)
    elif not stores:
        raise click.UsageError("name a store to learn from: featstore train STORE")
    else:
        options["class_weight"] = "balanced" if balanced else None
        if options["target"] is not None and kind is None:
            options["head"] = "ridge"
        settings = _with_network(options, settings)
        trained = run(stores, **_with_settings(run, options, settings))
    notes = list(trained.notes)
    figures: list[str] = []
    if report is not None:
        from featstore.pages.train import write_training_page

        with apart():
            notes += write_training_page(trained, report, root=root)
        if beside:
            from featstore.pages.figures import write_figures

            figures = [str(path) for path in write_figures(trained, report)]
    shown = _lines(trained, notes, report, figures)
    show({**trained.to_dict(), "page": report, "figures": figures}, "\n".join(shown), as_json)
    return 0


def _told(head: TrainedHead) -> str:
    """Return a text that says what a head predicts, such as "3 classes"."""
    if head.task == "numbers":
        return str(head.meta.get("task", {}).get("column"))
    return f"{len(head.classes):,} {'classes' if head.task == 'classes' else 'labels'}"


def _lines(trained: TrainReport, notes: list[str], report: str | None, figures: list[str]) -> list[str]:
    chosen = ", ".join(f"{name} = {value:g}" for name, value in trained.chosen.items())
    split = trained.split
    lines = [
        f"{trained.path}: {trained.head.kind}, {chosen or 'as given'} "
        f"({_told(trained.head)}, {trained.seconds['train']:.1f} s)",
        f"learnt from {split.names[0]} ({counted(len(split.train), 'picture')}), judged by {split.names[1]} ({len(split.test):,})",
        "\n".join(map(printable, trained.figures.text().split("\n"))),
        *(f"note: {printable(note)}" for note in notes),
    ]
    if trained.calibration is not None:
        before, after = (trained.calibration[when]["calibration_error"] for when in ("before", "after"))
        lines.insert(3, f"temperature scaling: calibration error {before:.4f} before, {after:.4f} after")
    if report is not None:
        lines.append(f"page: {report}")
        lines += [f"figure: {printable(path)}" for path in figures]
    return lines


def _require_place_of_figures(beside: bool, report: str | None) -> None:
    """Raise UsageError if --beside is given without --report, or if its JSON file would replace the page."""
    if beside and report is None:
        raise click.UsageError("--beside writes figures beside the page of --report; name one")
    if beside and report is not None and report.lower().endswith(".json"):
        raise click.UsageError(f"--beside writes its figures to {report}; give the page of --report another ending")


def _with_network(options: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the head's parameters ``settings`` with the options for a multilayer perceptron added.

    These options are removed from ``options``. Raises UsageError if one is given with another head, given twice, or
    given with --balanced, or if --folds is given with the mlp head.
    """
    if options["head"] == "mlp" and _was_given(click.get_current_context(), "folds"):
        raise click.UsageError(
            "--folds: the mlp head has no cross-validation; leave the option out, and set the share that it holds out "
            "with --set validation_fraction=0.1"
        )
    taken = {name: options.pop(name) for name in ("hidden", "dropout", "output", "balance")}
    given = {
        name: list(value) if name == "hidden" else value for name, value in taken.items() if value not in (None, ())
    }
    for name in given:
        if options["head"] != "mlp":
            raise click.UsageError(f"--{name} is an option of --head mlp, not of {options['head']}; leave it out")
        if name in settings:
            raise click.UsageError(f"{name} is given twice: by --{name} and by --set")
    balance = {**settings, **given}.get("balance", "none")
    if options["class_weight"] is not None and balance != "none":
        raise click.UsageError(f"--balanced and --balance {balance} both balance the classes; give one of them")
    return {**settings, **given}


def _with_settings(run: Callable[..., Any], options: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the parameters of --set added. Raises UsageError if the head has no such parameter."""
    if not settings:
        return options
    from featstore.heads.task_trainer import settable_for
    from featstore.heads.trainer import HEADS, train_head
    from featstore.store.targets import CLASSES, Task

    head, task = options["head"], Task.take(dict(options))
    names = {"views", *inspect.signature(run).parameters, *inspect.signature(train_head).parameters}
    own = names - {"C", "class_weight"}
    for name in settings:
        known = settable_for(CLASSES if task is None else task.kind, head) if task or head in HEADS else {name} - own
        if name not in known:
            raise click.UsageError(f"--set {name}: is no parameter of the head{did_you_mean(name, known)}; see --help")
    return {**options, **settings}


def _require_only(context: click.Context, option: str, *more: str) -> None:
    """Raise UsageError if an option is given that cannot be combined with ``option`` ("again" or "update").

    ``more``: options that are allowed nevertheless. All other settings are those of the old head.
    """
    own = (option, "store", "more", "as_json", *more)
    given = [
        one.opts[0] for one in context.command.params if one.name not in own and _was_given(context, one.name or "")
    ]
    if given:
        raise click.UsageError(f"--{option} trains with the settings of {context.params[option]}: leave out {given[0]}")


def _again(head: str, stores: list[str], kind: str | None, out: str | None, as_json: bool) -> int:
    """Run ``train --again`` and return the exit code. ``kind``: the value of --head, None if not given."""
    from featstore.stages.train import train_again

    report = train_again(head, stores, kind=kind, out=out)
    verdict = "equal bit for bit" if report.equal else "NOT equal: " + "; ".join(report.differences)
    lines = [
        f"{head}: trained again on {counted(report.rows, 'picture')} of {' + '.join(report.stores)} as then: {verdict}",
        *(f"note: {printable(note)}" for note in report.notes),
        *([f"saved: {printable(report.path)}"] if report.path is not None else []),
    ]
    show(report.to_dict(), "\n".join(lines), as_json)
    return 0 if report.equal else 1


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
