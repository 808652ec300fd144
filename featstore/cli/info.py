"""The command ``featstore info``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore.cli.output import all_printable, json_option, show
from featstore.text import counted, natural, printable

_LISTED = 20


@click.command()
@click.argument("path", type=click.Path())
@json_option
def info(path: str, as_json: bool) -> int:
    """Describe the store, head, index or model at PATH: identity of its features, counts, figures, provenance.

    For any other folder, list the stores, heads, indexes, models and pages in it and below it, what each was made from, which
    are out of date, and the commands that update them; exit code 1 if something cannot be read.

    \b
    Examples:
      featstore info my.store
      featstore info my.store.logreg.head
      featstore info my.store.faiss
      featstore info my.model
      featstore info my.store --json | jq .vectors
      featstore info .                                    what is out of date here
    """
    from featstore.stages.info import info as run

    found = run(path)
    texts = {"store": _store_text, "head": _head_text, "index": _index_text, "model": _model_text}
    text = (texts | {"folder": _folder_text})[found["kind"]]
    show(found, "" if as_json else text(all_printable(found)), as_json)
    return 1 if found.get("unread") else 0


def _folder_text(found: dict[str, Any]) -> str:
    lines = []
    for each in found["artifacts"]:
        made_of = f", made of {', '.join(one['store'] for one in each['made_of'])}" if each["made_of"] else ""
        state = f"stale: {each['stale']}" if each["stale"] else "" if each["unknown"] else "up to date"
        state += ("; " if each["stale"] else "") + f"not known: {each['unknown']}" if each["unknown"] else ""
        lines.append(f"{each['kind']:<6} {each['path']}{made_of}: {state}")
        if each["stale"] and not each["commands"]:
            lines.append("       no command is known that refreshes it: make it again")
    lines += [f"cannot be read: {each}" for each in found["unread"]]
    if found["commands"]:
        lines += ["to bring everything up to date:", *(f"  {command}" for command in found["commands"])]
    unknown = [each["path"] for each in found["artifacts"] if each["unknown"]]
    if unknown:
        lines.append(
            f"of {', '.join(unknown)} it is not known whether {'it is' if len(unknown) == 1 else 'they are'} stale"
        )
    elif not found["stale"] and not found["unread"]:
        lines.append("nothing is stale")
    return "\n".join(lines)


def _store_text(found: dict[str, Any]) -> str:
    identity = found["identity"]
    lines = [
        f"{found['path']}: {counted(found['images'], 'image')} = {counted(found['vectors'], 'vector')} + {counted(found['failures'], 'failure')} + {found['pending']:,} pending",
        f"features: {identity['dimension']}-d {identity['dtype']} of {identity['backbone']} ({_layer_text(identity)}), weights {found['weights_name']}",
        f"identity: {found['fingerprint'][:16]}; decoder {identity['decoder']}, precision {identity['precision']}, {_preprocessing_text(identity['preprocessing'])}"
        + (f"; augmented pictures: {_augment_text(identity['augment'])}" if "augment" in identity else ""),
        f"units: {found['units']:,} of {found['unit_rows']:,} rows; {found['bytes'] / 2**20:,.1f} MiB; {counted(found['retired'], 'retired row')} (featstore compact purges)",
    ]
    if found["journaled"]:
        lines.insert(
            1,
            f"of the pending, {counted(found['journaled'], 'picture is', 'pictures are')} extracted already, in "
            f"unfinished units of up to {found['unit_rows']:,}",
        )
    lines += [
        f"{printable(view['path'])}: {_augment_text(view['augment'])}; {counted(view['vectors'], 'vector')} + "
        f"{counted(view['failures'], 'failure')} + {view['pending']:,} pending"
        for view in found["views"]
    ]
    lines += [f"source: {source.get('kind')} {printable(str(source.get('location')))}" for source in found["sources"]]
    for name in ("labels", "splits"):
        counts = [f"{printable(value)} {count:,}" for value, count in found[name].items()]
        more = f", ... ({len(counts)} in all)" if len(counts) > _LISTED else ""
        whose = " of the pictures with vectors" if found["pending"] else ""
        lines.append(f"{name}{whose}: " + (", ".join(counts[:_LISTED]) + more if counts else "none"))
    lines.append(f"columns: {', '.join(map(printable, found['columns']))} (version {found['label_version']})")
    lines += [
        f"made by: {made['engine']} on {printable(_hardware(made))}, {made['version']} ({counted(made['units'], 'part')})"
        + ("" if made["drift"] is None else f", within {made['drift']:.1g} standard deviations of plain torch")
        for made in found["made_by"]
    ]
    if len(found["instruction_sets"]) > 1:
        lines.append(
            f"parts were made with several instruction sets ({printable(', '.join(found['instruction_sets']))}): they agree "
            f"as far as the class {identity['precision']} promises, not bit for bit"
        )
    return "\n".join(lines)


def _hardware(made: dict[str, Any]) -> str:
    return str(made["device"]) + (f" ({made['instruction_set']})" if made["instruction_set"] else "")


def _preprocessing_text(value: dict[str, Any]) -> str:
    # A store of another featstore version may have other names for the settings of the preprocessing.
    known = [f"{name} {value[name]}" for name in ("resize", "crop", "interpolation") if name in value]
    known += [f"fit {value['fit']}"] if "fit" in value else []
    return ", ".join(known) or str(value)


def _augment_text(value: dict[str, Any]) -> str:
    return f"view {value['view']}, {value['policy']}, seed {value['seed']}"


def _layer_text(identity: dict[str, Any]) -> str:
    """Return the layer's name, its pooling and, if the output is a map, the shape of the map."""
    shape = f" {' x '.join(map(str, identity['shape']))}" if "shape" in identity else ""
    return str(identity["layer"]) + (f", pool {identity['pool']}{shape}" if "pool" in identity else "")


def _features_text(found: dict[str, Any]) -> str:
    identity = found["identity"]
    return (
        f"features: {identity['dimension']}-d {identity['dtype']} of {identity['backbone']} ({_layer_text(identity)}), "
        f"weights {found['weights_name']}; identity {found['fingerprint'][:16]}"
    )


def _model_text(found: dict[str, Any]) -> str:
    identity = found["identity"]
    facts = [
        f"{name} {printable(str(value))}"
        for name, value in found["record"].items()
        if isinstance(value, str | int | float | bool)
    ]
    return "\n".join(
        [
            f"{found['path']}: {found['backbone']} ({_layer_text(identity)}), fine-tuned, with a {found['head']} head "
            f"({found['bytes'] / 2**20:,.1f} MiB)",
            _classes_text(found["classes"]),
            f"features: {identity['dimension']}-d; weights {found['weights_digest'][:12]}; identity "
            f"{found['fingerprint'][:16]}; {_preprocessing_text(identity['preprocessing'])}",
            *([f"store: {found['store']}"] if found["store"] else []),
            *([f"training: {', '.join(facts)}"] if facts else []),
        ]
    )


def _classes_text(classes: list[str], title: str = "classes") -> str:
    shown = ", ".join(map(printable, sorted(classes, key=natural)[:_LISTED]))
    return f"{title}: {shown}" + (f", ... ({len(classes):,} in all)" if len(classes) > _LISTED else "")


def _target_lines(target: Any) -> list[str]:
    """Return a line that says what a head predicts, if not classes; an empty list for a head that predicts classes."""
    if not isinstance(target, dict):
        return []
    told = f"predicts {target.get('kind')} of the column {target.get('column')}"
    return [printable(told + (f", separated by {target['separator']}" if target.get("separator") else ""))]


def _head_text(found: dict[str, Any]) -> str:
    chosen = ", ".join(f"{name} = {value:g}" for name, value in found["chosen"].items())
    split = found["split"]
    lines = [
        f"{found['path']}: {found['head']}, {chosen or 'as given'}, trained on {counted(found['rows'], 'picture')}",
        *(
            [_classes_text(found["classes"], "classes" if found["task"] == "classes" else "labels")]
            if found["classes"]
            else []
        ),
        *_target_lines(found["target"]),
        *map(_features_text, found["features"]),
        f"store: {' + '.join(printable(one['store']) for one in found['features'])} "
        f"(label version {found['label_version']}), seed {found['seed']}",
        f"split: learnt from {printable(split['train'])} ({split['train_rows']:,}), judged by {printable(split['test'])} ({split['test_rows']:,})",
    ]
    if found["trust"]:
        lines.append(
            f"to use it, trust the types that it is made of: {' '.join(f'--trust {name}' for name in found['trust'])}"
        )
    for name, estimate in found["held_out"].items():
        if estimate["value"] is not None:
            interval = f"[{estimate['low']:.4f}, {estimate['high']:.4f}]"
            lines.append(f"held-out {name.replace('_', ' ')}: {estimate['value']:.4f} {interval}")
    return "\n".join(lines)


def _index_text(found: dict[str, Any]) -> str:
    from featstore.cli.index import contract_lines, removed_lines

    lines = [
        f"{found['path']}: {counted(found['rows'], 'vector')}, {found['factory']}, {found['metric']}; {found['labelled']:,} labelled",
        *removed_lines(found, found["store"]),
        *contract_lines(found),
        *([found["standing"]] if found["holds"] is not None else []),
        _features_text(found),
        f"store: {printable(found['store'])}" + ("" if found["store_found"] else " (not there any more)"),
    ]
    if found["stale"]:
        lines.append(f"note: {printable(found['stale'])}")
    return "\n".join(lines)
