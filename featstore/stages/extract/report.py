"""Report and progress of an extraction; imports neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.store.planner import Change


@dataclass
class ExtractReport:
    """Result of an extraction.

    Counts of the whole store after the run: ``images`` = ``vectors`` + ``failures`` + ``pending``; ``classes``: number
    of classes; ``splits``: names of the splits. Counts of this run: ``new_vectors``, ``new_failures``; ``reasons``:
    number of failures by reason; ``stopped``: whether the run was asked to stop before its units were done;
    ``restarts``: how often a worker process that died or stalled was started again. Of the source: ``layout``, if the
    source is a folder;
    ``read_as``: one line on what was found and where; ``ignored``: number of files left out; ``unreached``: number of
    pending pictures whose folder does not exist. ``notes``: messages for the user.
    """

    store: str
    change: Change
    images: int = 0
    vectors: int = 0
    failures: int = 0
    pending: int = 0
    unreached: int = 0
    new_vectors: int = 0
    new_failures: int = 0
    ignored: int = 0
    stopped: bool = False
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    advice: str = ""
    restarts: int = 0
    layout: str | None = None
    read_as: str = ""
    classes: int = 0
    splits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"<ExtractReport {self.store!r}: {self.vectors:,} vectors ({self.new_vectors:,} new), {self.failures:,} failures, "
            f"{self.pending:,} pending, {self.seconds:.1f} s>"
        )

    @property
    def fruitless(self) -> bool:
        """Whether the run added no vector, because all pictures failed or their folder does not exist."""
        return self.new_vectors == 0 and (self.new_failures > 0 or self.unreached > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the extraction as JSON types."""
        return {**self.__dict__, "change": self.change.to_dict()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ExtractReport:
        """Return the report from a dict that ``to_dict`` returned."""
        from featstore.store.planner import Change

        return cls(**{**value, "change": Change(**value["change"])})
