"""Remove pictures from a store, and erase them from all of its files."""

from featstore.stages.remove.purging import PurgeReport, purge
from featstore.stages.remove.stage import keys_in, remove, restore
from featstore.store.removal import Removal

__all__ = ["PurgeReport", "Removal", "keys_in", "purge", "remove", "restore"]
