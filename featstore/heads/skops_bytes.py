"""Save fitted classifiers of other packages as bytes with the package skops, without pickle.

A skops file holds data and names of Python types; loading builds an object from these types. skops trusts harmless
types of scikit-learn. Any other type is built, and its module imported, only if the caller trusts the type by name.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, Final

from featstore.errors import DamagedError, UsageError
from featstore.text import counted, printable

_AMPLIFIED: Final = 64
"""Largest allowed ratio of the total size of the arrays in a skops file to the size of the file; an array counts once
for each reference to it."""
_DEEPEST: Final = 200
"""Largest allowed depth of the description of a classifier; a stack of four nested ensembles of scikit-learn has 43 levels."""
_LISTED: Final = 50


def pack(estimator: Any) -> bytes:
    """Return ``estimator`` as the bytes of a skops file; equal estimators give equal bytes.

    skops identifies objects by their memory addresses, which differ from run to run; this function replaces the
    addresses by consecutive numbers. Raises UsageError if skops is not installed, and skops' own errors for an
    estimator that cannot be saved.
    """
    with warnings.catch_warnings():
        # skops inspects all loaded modules to find the name of a function; some modules then warn of deprecations.
        warnings.simplefilter("ignore")
        source = zipfile.ZipFile(io.BytesIO(_skops().dumps(estimator)))
    state = json.loads(source.read("schema.json"))
    numbers: dict[Any, int] = {}
    names: dict[str, str] = {}
    pending = [state]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if isinstance(node.get("__id__"), int):
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
            if isinstance(node.get("file"), str):
                ending = node["file"].rpartition(".")[2]
                node["file"] = names.setdefault(node["file"], f"{len(names)}.{ending}")
        pending += reversed(list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else [])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as file:
        for old, new in names.items():
            file.writestr(zipfile.ZipInfo(new), source.read(old))
        file.writestr(zipfile.ZipInfo("schema.json"), json.dumps(state, separators=(",", ":")))
    return made.getvalue()


def untrusted(data: bytes, origin: str) -> list[str]:
    """Return the sorted names of the types in the skops file ``data`` that skops does not trust by itself.

    No module is imported. Raises DamagedError (``origin``: the file name for the message) if ``data`` is not a skops
    file, UsageError if skops is not installed.
    """
    skops = _skops()
    _require_sane(data, origin)
    try:
        return list(skops.get_untrusted_types(data=data))
    except Exception as error:
        raise DamagedError(f"{origin}: its classifier is damaged ({_told(error)})") from None


def unpack(data: bytes, trust: Sequence[str], origin: str) -> Any:
    """Return the object in the skops file ``data``.

    Raises UsageError with a list of types if the object needs types that skops does not trust and ``trust`` does not
    name; DamagedError if ``data`` is not a skops file.
    """
    needed = untrusted(data, origin)
    refused = [name for name in needed if name not in trust]
    if refused:
        shown = [printable(name) for name in refused[:_LISTED]]
        more = f" and {len(refused) - _LISTED:,} others" if len(refused) > _LISTED else ""
        raise UsageError(
            f"{origin}: its classifier needs {counted(len(refused), 'type')} that skops does not trust: {', '.join(shown)}{more}; "
            f"if you trust who made this file, add {' '.join(f'--trust {name}' for name in shown)} (in Python: trust=[...])"
        )
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = _skops().loads(data, trusted=needed)
    except Exception as error:
        raise DamagedError(f"{origin}: its classifier is damaged ({_told(error)})") from None
    # Replace scikit-learn's message, which contains text from the untrusted file.
    if any(issubclass(one.category, InconsistentVersionWarning) for one in caught):
        warnings.warn(
            f"{origin}: another version of scikit-learn made its classifier, so it may predict otherwise; train it again",
            UserWarning,
            stacklevel=2,
        )
    return made


def _require_sane(data: bytes, origin: str) -> None:
    """Raise DamagedError if a skops file is small but would unpack to far larger arrays, or is nested too deeply."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            sizes = {one.filename: one.file_size for one in file.infolist()}
            stored = all(one.compress_type == zipfile.ZIP_STORED for one in file.infolist())
            if not stored or sum(sizes.values()) > len(data):
                raise ValueError("its arrays are larger than the file")
            pending, read = [(json.loads(file.read("schema.json")), 0)], 0
    except (ValueError, KeyError, OSError, RecursionError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{origin}: its classifier is damaged ({_told(error)})") from None
    while pending:
        node, depth = pending.pop()
        if depth > _DEEPEST:
            raise DamagedError(f"{origin}: its classifier is damaged (its description is nested too deeply)")
        if isinstance(node, dict):
            name = node.get("file")
            read += sizes.get(name, 0) if isinstance(name, str) else 0
            pending += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            pending += [(value, depth + 1) for value in node]
    if read > _AMPLIFIED * len(data):
        raise DamagedError(f"{origin}: its classifier is damaged (its arrays are far larger than the file)")


def _told(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")[:200]


def _skops() -> Any:
    try:
        import skops.io
    except ImportError:
        raise UsageError(
            "heads of scikit-learn's classes are saved by the package skops; run: pip install 'image-featstore[skops]'"
        ) from None
    return skops.io
