"""Features that carry their identity: which network, weights and preprocessing made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featstore.errors import IdentityError, UsageError
from featstore.store.identity import OPTIONAL, Identity
from featstore.text import printable

if TYPE_CHECKING:
    from featstore.store import FeatureStore

_BELOW = (np.concatenate, np.vstack)


class FeatureArray(np.ndarray[Any, np.dtype[Any]]):
    """NumPy array of features (n, d), or of one row (d,), that carries the identity of the network that made them.

    Selecting rows keeps the identity: slices, masks, ``take`` along axis 0, copies, other floating types, pickles,
    vertical concatenation. Columns, arithmetic and transposes return arrays without identity, and writing into an array
    removes its identity, because the columns may then mean something else. Heads and indexes raise IdentityError for
    features of another identity than their own; an array without identity is not checked.

    Parameters
    ----------
    array : array_like of shape (n, d) or (d,)
        Features from elsewhere, or an array that lost its identity. The memory is shared, not copied.
    identity : Identity or FeatureStore
        The identity, such as ``store.identity``, or a store that has it.

    Attributes
    ----------
    identity : Identity or None
        Identity of the features; None if unknown.
    """

    identity: Identity | None

    def __new__(cls, array: Any, identity: Identity | FeatureStore) -> Self:
        """Attach the identity ``identity`` to ``array``; raise UsageError if the array has another dimension."""
        spec: Any = getattr(identity, "identity", identity)
        values = np.asarray(array)
        if values.ndim not in (1, 2) or values.shape[-1] != spec.dimension:
            raise UsageError(f"an array of shape {values.shape} holds no features of {spec.dimension} values a row")
        features = values.view(cls)
        features.identity = spec
        return features

    def __array_finalize__(self, other: Any) -> None:
        # NumPy calls this for every new array of this class. The identity starts as None; only the methods below set
        # the identity.
        self.identity = None

    def _same(self, result: Any) -> Any:
        if isinstance(result, FeatureArray):
            result.identity = self.identity
        return result

    def __getitem__(self, key: Any) -> Any:
        result = super().__getitem__(key)
        return self._same(result) if self.identity is not None and self._are_rows(key) else result

    def _are_rows(self, key: Any) -> bool:
        """Return whether the index ``key`` selects whole rows: an (m, d) array, or one row (d,)."""
        first, *others = key if isinstance(key, tuple) else (key,)
        if any(other is not Ellipsis and not (isinstance(other, slice) and other == slice(None)) for other in others):
            return False
        if self.ndim == 1:
            return first is None or first is Ellipsis
        return first is not None and (isinstance(first, slice) or first is Ellipsis or np.ndim(first) <= 1)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.identity = None

    def sort(self, *arguments: Any, **options: Any) -> None:
        """Sort in place: the array loses its identity."""
        super().sort(*arguments, **options)
        self.identity = None

    def partition(self, *arguments: Any, **options: Any) -> None:
        """Partition in place: the array loses its identity."""
        super().partition(*arguments, **options)
        self.identity = None

    def fill(self, value: Any) -> None:
        """Fill in place: the array loses its identity."""
        super().fill(value)
        self.identity = None

    def take(self, indices: Any, axis: Any = None, *arguments: Any, **options: Any) -> Any:
        """Take elements as numpy.ndarray.take does; rows (``axis`` 0) keep the identity."""
        result = super().take(indices, axis, *arguments, **options)
        return self._same(result) if axis == 0 and self.ndim == 2 and np.ndim(indices) == 1 else result

    def copy(self, order: Any = "C") -> Self:
        """Return a copy of the array with its identity."""
        copied: Self = self._same(super().copy(order))
        return copied

    def astype(self, dtype: Any, *arguments: Any, **options: Any) -> Any:
        """Return a copy with another dtype; floating-point dtypes keep the identity."""
        result = super().astype(dtype, *arguments, **options)
        return self._same(result) if result.dtype.kind == "f" else result

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Self:
        return self.copy()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        """Apply a NumPy ufunc to plain arrays: the result has no identity, and arrays given as ``out`` lose theirs."""
        if out is not None:
            options["out"] = tuple(_plain(array) for array in out)
        result = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if out is None:
            return result
        for array in out:
            if isinstance(array, FeatureArray):
                array.identity = None
        return out[0] if len(out) == 1 else out

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        """Call a NumPy function such as np.take; functions that select rows, or concatenate rows of one identity, keep
        the identity.
        """
        result = super().__array_function__(function, types, arguments, options)
        if function in _BELOW and not options and len(arguments) == 1:
            first, *others = [part.identity if isinstance(part, FeatureArray) else None for part in arguments[0]]
            if first is not None and result.ndim == 2 and all(other == first for other in others):
                return FeatureArray(result, first)
        elif function is not np.take and isinstance(result, FeatureArray):
            # numpy.sort and similar functions modify a copy that still has the identity: remove the identity.
            result.identity = None
        return result

    def __reduce__(self) -> Any:
        # Pickle as a plain array, because joblib memory-maps only plain arrays.
        return _rebuilt, (np.asarray(self), None if self.identity is None else self.identity.to_dict())


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, FeatureArray) else value


def _rebuilt(array: NDArray[Any], identity: dict[str, Any] | None) -> FeatureArray:
    features = array.view(FeatureArray)
    features.identity = None if identity is None else Identity.from_dict(identity)
    return features


class FeatureBlocks:
    """Vectors of a store, read as (b, d) arrays one after the other, in constant memory; may be read repeatedly.

    Attributes: ``shape`` (n, d), ``dtype``, ``identity``.
    """

    def __init__(self, store: FeatureStore, rows: NDArray[np.int64] | None, block_rows: int) -> None:
        self._store, self._rows, self._block_rows = store, rows, block_rows
        self.shape = (len(store) if rows is None else len(rows), store.dimension)
        self.dtype = store.identity.numpy_dtype
        self.identity = store.identity

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[FeatureArray]:
        """Yield the vectors of the chosen rows in order, as (b, d) arrays."""
        return self._store.blocks(self._rows, block_rows=self._block_rows)

    def __iter__(self) -> Iterator[FeatureArray]:
        return self.blocks()


def identity_of(X: Any) -> dict[str, Any] | None:
    """Return the identity that features ``X`` (an array, or row blocks of a store) carry, or None."""
    identity = getattr(X, "identity", None)
    return identity.to_dict() if identity is not None and hasattr(identity, "fingerprint") else None


def require_same(own: Mapping[str, Any] | None, X: Any, what: str, fingerprint: str = "") -> None:
    """Raise IdentityError if ``X`` carries another identity than ``own``; if either identity is missing, check nothing.

    ``what`` names the owner of ``own`` in the message. ``fingerprint``: the fingerprint of ``own``; if ``X``
    has the same fingerprint, the fields are not compared. The field ``dtype`` is never compared: float16 features are
    rounded float32 features.
    """
    other = identity_of(X)
    names = [field.name for field in fields(Identity)]
    if other is None or not own or not set(names) - OPTIONAL <= set(own) or X.identity.fingerprint == fingerprint:
        return
    different = [name for name in names if name != "dtype" and own.get(name) != other.get(name)]
    if different:
        # If the backbones differ, all other fields differ too: the message gives only the backbones.
        shown = different[:1] if different[0] == "backbone" else different
        told = "; ".join(f"{name} {_short(own.get(name))} ({what}) and {_short(other.get(name))}" for name in shown)
        raise IdentityError(
            f"these features have another identity than those that {what} was made of: {told}; make them with the "
            "same backbone, weights and options (numpy.asarray(features) is not checked)"
        )


def _short(value: Any) -> str:
    text = "the default" if value is None else printable(str(value))
    return text if len(text) <= 40 else text[:37] + "..."
