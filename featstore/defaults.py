"""Every default of featstore, in one place; the command line and the library both read them here."""

from __future__ import annotations

from typing import Final

# Backbones and pictures
BACKBONE: Final = "resnet50"
ENGINE: Final = "auto"
MAX_PIXELS: Final = 178_956_970
"""Pictures of more pixels are failures, not memory: Pillow's own bound for a decompression bomb."""

MAX_FILE_BYTES: Final = 256 << 20
"""Picture files of more bytes are failures, for the same reason."""

MAX_MEMORY: Final = 8 << 30
"""Bytes that decoding one picture may take."""
BYTES_OF_PIXEL: Final = 40
"""Memory that decoding takes at most, by pixel of the picture: measured for 32-bit floats, the worst kind."""

# Extraction
STALL_SECONDS: Final = 300.0
"""A picture that takes longer to read and decode, and a run without any progress for so long, are stalled."""
BATCH: Final = 32
BATCHES_AHEAD: Final = 3
"""Batches that are read and decoded while one is in the network."""
DTYPE: Final = "float32"
UNIT_BYTES: Final = 512 << 20
"""Vectors of one full unit (and so of one full shard)."""
JOURNAL_SYNC_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 5.0
CLAIM_LEASE_SECONDS: Final = 60.0
"""A claim from another host whose heartbeat stands still for so long is taken over."""

# Store
MEMORY_LIMIT: Final = 4 << 30
"""FeatureStore.features() refuses to make a copy larger than this."""
OPEN_SHARDS: Final = 64
"""Shards that a reader keeps mapped at once."""

# Heads, index, demo
SEED: Final = 0
HELD_OUT: Final = 0.2
FOLDS: Final = 5
HEAD_MEMORY: Final = 2 << 30
"""Training rows whose float32 copy is larger than this are streamed instead."""
HEAD_CS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C that C="auto" tries, for standardised features."""
SVM_CS: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The same for the linear support vector machine, whose squared hinge loss is larger."""
KERNEL_EXACT_ROWS: Final = 4096
"""Kernel heads are exact up to so many training rows; beyond they are Nystroem approximations."""
KERNEL_LANDMARKS: Final = 2048
KERNEL_CS: Final = (0.1, 1.0, 10.0, 100.0)
KERNEL_GAMMAS: Final = (0.25, 1.0, 4.0)
"""Values of gamma that gamma="auto" tries, in units of 1 / (mean squared distance of two rows)."""
HEAD_NEIGHBOURS: Final = (1, 3, 5, 10, 20, 50)
"""Numbers of neighbours that n_neighbors="auto" tries."""
VOTE_TEMPERATURE: Final = 0.07
"""Of the neighbours' vote, in units of cosine, as DINO uses it."""
NEIGHBOURS: Final = 10
HEAD_CLASSES: Final = 10_000
"""Classes of a head at most: beyond it, a label column is more likely to be an identifier."""

# Index
INDEX_BLOCK_BYTES: Final = 32 << 20
"""Vectors (as float32) that building and exact search hold at once besides the index."""
EXACT_SCAN_BYTES: Final = 512 << 20
"""Vectors up to this size are searched exactly: a scan at some 10 GB/s answers one query in about 50 ms, and a
batch, by matrix products, hundreds a second; 65,536 rows of 2048 float32."""
RECALL: Final = 0.95
"""Recall@k that an approximate index is tuned to."""
TUNING_QUERIES: Final = 1000
CHECK_QUERIES: Final = 2000
"""Held-out queries that tuning never sees: with 2,000 a recall of 0.95 has a 95 % interval under 2 points wide."""
HNSW_LINKS: Final = 32
HNSW_CONSTRUCTION: Final = 100
"""HNSW's M and efConstruction."""
CONTRACT_SAMPLE_BYTES: Final = 1 << 30
"""Vectors (as float32) on which the kinds of index are tried; of more a sample of rows is."""
INDEX_TRAINING_ROWS: Final = 65536
"""Rows on which clusters and codes are trained: k-means wants 39 to 256 points a centroid."""
DUPLICATE_COSINE: Final = 0.8
"""Centred cosine from which two pictures are near-duplicates: with EfficientNet-Lite0 0.973 of 900 copies (half size,
JPEG at 40, cropped by 5 % a side) reach it, and none of the 44,850 pairs of the 300 different pictures (most: 0.72)."""
