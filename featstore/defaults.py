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
READERS: Final = 16
"""Threads that read besides those that decode: at 20 ms a read, as over a network, they bring 800 pictures a second."""
BATCHES_AHEAD: Final = 3
"""Batches that are read and decoded while one is in the network."""
DTYPE: Final = "float32"
DECODE: Final = "auto"
"""Of an extraction: as the store began; for a new one "exact"."""
UNIT_BYTES: Final = 512 << 20
"""Vectors of one full unit (and so of one full shard)."""
DRIFT_PICTURES: Final = 16
DRIFT_RUN: Final = 256
"""A run of so many pictures measures, on DRIFT_PICTURES of them, how far its engine is from plain torch; in a shorter one
the measurement would count for more than it tells."""
JOURNAL_SYNC_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 5.0
CLAIM_LEASE_SECONDS: Final = 60.0
"""A claim from another host whose heartbeat stands still for so long is taken over."""

# Downloads of data sets
DOWNLOAD_TIMEOUT: Final = 30.0
"""Seconds without a byte after which a connection counts as broken."""
DOWNLOAD_ATTEMPTS: Final = 3
"""Connections in a row that brought nothing, after which a download ends."""
DOWNLOAD_PAUSE: Final = 0.5
"""Seconds before the next connection; doubled by each one that brought nothing."""
UNPACKED_RATIO: Final = 10
"""An archive of pictures may unpack to so many times its size: pictures are compressed already."""
UNPACKED_FILES: Final = 200_000

# Benchmarks
BENCH_ROUNDS: Final = 5
BENCH_PICTURES: Final = 128
BENCH_MEGABYTES: Final = 256
BENCH_DIMENSION: Final = 2048

# Store
MEMORY_LIMIT: Final = 4 << 30
"""FeatureStore.features() refuses to make a copy larger than this."""
OPEN_SHARDS: Final = 64
"""Shards that a reader keeps as arrays at once."""
HELD_SHARDS: Final = 256
"""Shards that an open store holds by a file descriptor each, so that a compaction does not end the reading; at most
an eighth of the descriptors that the process may have. More shards are opened when they are needed."""

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
KERNEL_EXACT_ROWS: Final = 2048
"""Kernel heads are exact up to so many training rows; beyond they are Nystroem approximations, as accurate with
KERNEL_LANDMARKS landmarks and, of 4,000 rows, four times faster."""
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
FEWEST_QUERIES: Final = 100
"""New pictures from which the recall of an index that has grown is measured again."""
UNMEASURED_GROWTH: Final = 0.1
"""Share of new rows up to which a measured recall stands where they were too few to measure it again."""
EXPORTED_NEIGHBOURS: Final = 100
"""True neighbours of each query in a file of ann-benchmarks, as theirs have."""
LESS_WEIGHT: Final = 0.5
"""How far "less like that" moves a query away, in distances between the two."""
HNSW_LINKS: Final = 32
HNSW_CONSTRUCTION: Final = 100
"""HNSW's M and efConstruction."""
CONTRACT_SAMPLE_BYTES: Final = 512 << 20
"""Vectors (as float32) on which the kinds of index are tried; of more a sample of rows is."""
INDEX_TRAINING_ROWS: Final = 65536
"""Rows on which clusters and codes are trained: k-means wants 39 to 256 points a centroid."""
DUPLICATE_COSINE: Final = 0.8
"""Centred cosine from which two pictures are near-duplicates. With EfficientNet-Lite0, of 150 copies of each kind planted
in hymenoptera (398 pictures) and in 2,000 cats and dogs, these shares are found, and in brackets at 0.75: another format
1.00, 1.00; half size 0.91, 0.98 (0.97, 0.99); JPEG of quality 50 0.94, 0.99 (0.97, 1.00), of quality 20 0.39, 0.88 (0.68,
0.95); half size and quality 50 0.06, 0.62 (0.15, 0.73); quarter size 0.02, 0.30 (0.07, 0.48); 5 % cut off each side 0.96,
0.99 (1.00, 0.99), 10 % 0.77, 0.83 (0.93, 0.95); 30 % brighter 0.99, 0.99 (0.99, 0.99); gray 0.13, 0.48 (0.32, 0.73);
mirrored 1.00, 1.00. Without any copy the first set has no group at either, and the second has 2 groups (of 4 pictures),
at 0.75 11 (of 26). Wrong pairs grow with the square of a store, so the higher value is the default.
tests/slow/planted_duplicates.py measures it."""
