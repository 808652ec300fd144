"""Default values and limits of featstore, for the command line and the library."""

from __future__ import annotations

from typing import Final

# Defaults and limits for backbones and pictures
BACKBONE: Final = "resnet50"
ENGINE: Final = "auto"
LARGEST_SIDE: Final = 8192
"""Maximum side length, in pixels, of the square input of a network."""
FITS: Final = ("crop", "squash", "pad")
"""Ways to make a picture square, see Preprocessing."""
POOLS: Final = ("avg", "max", "cls", "cls+mean", "none")
"""Ways to make a vector from the output of a layer, see featstore.backbones.layers.take."""
POLICIES: Final = ("light", "standard")
"""Ways to augment pictures, see featstore.decode.augment."""
AUGMENT: Final = "standard"
LARGEST_VIEW: Final = 9_999
"""Maximum number of an augmented view of a store."""
LARGEST_SEED: Final = (1 << 63) - 1
"""Maximum seed of augmented views."""
OUTPUT_OF: Final = "output of "
"""Prefix of the field ``layer`` of an identity if the user chose the layer by name."""
MAX_PIXELS: Final = 178_956_970
"""Maximum number of pixels of a picture (Pillow's limit for decompression bombs); larger pictures become failures."""

MAX_FILE_BYTES: Final = 256 << 20
"""Maximum size of a picture file in bytes; larger files are recorded as failures."""

MAX_MEMORY: Final = 8 << 30
"""Memory limit for decoding one picture, bytes."""
BYTES_OF_PIXEL: Final = 40
"""Maximum decoding memory per pixel, bytes; measured for 32-bit floats, the worst case."""

# Defaults and limits of an extraction
STALL_SECONDS: Final = 300.0
"""Timeout in seconds for reading and decoding one picture, and for an extraction without any progress."""
BATCH: Final = 32
READERS: Final = 16
"""Number of threads that read files (besides decoding threads); at 20 ms per read they read 800 pictures per second."""
BATCHES_AHEAD: Final = 3
"""Number of batches to read and decode ahead of the network."""
SHARED_BYTES: Final = 256 << 20
"""Maximum bytes of decoded pictures kept when several extractions share the decoded pictures."""
DTYPE: Final = "float32"
DECODE: Final = "auto"
"""Choice of the decoder: "auto" means the decoder of the existing store, or "exact" for a new store."""
UNIT_BYTES: Final = 512 << 20
"""Bytes of vectors in a full unit; a unit is the set of pictures whose vectors are in one shard (file)."""
DRIFT_PICTURES: Final = 16
DRIFT_RUN: Final = 256
"""Minimum number of pictures of an extraction for measuring the drift: how far the engine's features are from plain
torch's.

The drift is measured on DRIFT_PICTURES pictures. In a smaller extraction the measurement would take too large a share
of the time.
"""
JOURNAL_SYNC_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 5.0
CLAIM_LEASE_SECONDS: Final = 60.0
"""Heartbeat timeout in seconds. A process that extracts a unit holds a claim (lock) on the unit and renews the claim
regularly. If a process on another host has not renewed its claim for this long, a different process may take over."""

# Limits of downloads of data sets
DOWNLOAD_TIMEOUT: Final = 30.0
"""Download timeout in seconds: a connection that delivers no data for this long counts as broken."""
DOWNLOAD_ATTEMPTS: Final = 3
"""Number of consecutive connections without data after which a download fails."""
DOWNLOAD_PAUSE: Final = 0.5
"""Seconds to wait before reconnecting; doubled after each connection without data."""
UNPACKED_RATIO: Final = 10
"""Maximum ratio of unpacked to packed size of a picture archive; pictures are already compressed."""
UNPACKED_FILES: Final = 200_000

# Defaults of benchmarks
BENCH_ROUNDS: Final = 5
BENCH_PICTURES: Final = 128
BENCH_MEGABYTES: Final = 256
BENCH_DIMENSION: Final = 2048

# Defaults and limits of stores
MEMORY_LIMIT: Final = 4 << 30
"""Maximum bytes of the copy that FeatureStore.features() returns."""
OPEN_SHARDS: Final = 64
"""Maximum number of shards whose arrays an open store keeps ready at the same time."""
HELD_SHARDS: Final = 256
"""Maximum number of shards for which an open store holds a file descriptor, so that a compaction does not interrupt
reading. The number is also limited to an eighth of the process's descriptors; further shards are opened when needed."""

# Defaults and limits of heads
SEED: Final = 0
HELD_OUT: Final = 0.2
FOLDS: Final = 5
HEAD_MEMORY: Final = 2 << 30
"""Maximum bytes of a float32 copy of the training rows in memory; larger training data is streamed."""
HEAD_CS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C that C="auto" tries, on standardised features."""
SVM_CS: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C to try for the linear SVM; smaller than HEAD_CS, because its squared hinge loss is larger."""
KERNEL_EXACT_ROWS: Final = 2048
"""Maximum training rows of an exact kernel head. With more rows, the head is a Nystroem approximation with
KERNEL_LANDMARKS landmarks. The approximation is as accurate as the exact head and, on 4,000 rows, four times
faster."""
KERNEL_LANDMARKS: Final = 2048
KERNEL_CS: Final = (0.1, 1.0, 10.0, 100.0)
KERNEL_GAMMAS: Final = (0.25, 1.0, 4.0)
"""Values of gamma that gamma="auto" tries, in units of 1 / (mean squared distance of two rows)."""
HEAD_NEIGHBOURS: Final = (1, 3, 5, 10, 20, 50)
"""Numbers of neighbours that n_neighbors="auto" tries."""
VOTE_TEMPERATURE: Final = 0.07
"""Temperature of the softmax that turns the neighbours' cosines into weights, as in DINO's k-NN evaluation."""
RIDGE_ALPHAS: Final = (1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6)
"""Values of alpha to try for ridge regression on standardised features; the loss is summed over the rows."""
MLP_HIDDEN: Final = (512,)
MLP_DROPOUT: Final = 0.5
MLP_VALIDATION: Final = 0.2
"""Share of the training rows that judges the epochs of a multilayer perceptron. With EfficientNet-Lite0, over five
folds of 245 hymenoptera, the mean log loss is 0.145 with a fifth and 0.176 with a tenth; with 1,000 dogs and cats it is
0.039 and 0.053.
"""
MLP_EPOCHS: Final = 100
MLP_PATIENCE: Final = 10
MLP_LEARNING_RATE: Final = 1e-3
"""Learning rate of the first epoch. On five folds of hymenoptera, accuracy with 0.0003 and with 0.001 differs by at
most 0.4 points; the larger rate needs a third to a half of the epochs.
"""
MLP_WEIGHT_DECAY: Final = 1e-2
MLP_BATCH: Final = 256
NEIGHBOURS: Final = 10
HEAD_CLASSES: Final = 10_000
"""Maximum number of classes of a head; a label column with more values is probably an identifier."""

# Defaults of fine-tuning
TUNING_EPOCHS: Final = 10
TUNING_BATCH: Final = 32
TUNING_LEARNING_RATE: Final = 1e-4
TUNING_LAYER_DECAY: Final = 0.9
"""Learning rate of the head in fine-tuning with AdamW, and the factor by which the rate decreases from each block to
the block below. Both are those of AutoGluon's MultiModalPredictor.
"""
SCRATCH_LEARNING_RATE: Final = 1e-3
"""Learning rate of a network that starts from random weights; it is the default of AdamW in PyTorch."""
GRADUAL_BLOCKS: Final = 3
"""Total number of blocks that gradual unfreezing trains, one after another."""
COMPARED_SEEDS: Final = 5
TUNING_WEIGHT_DECAY: Final = 1e-2
TUNING_MOMENTUM: Final = 0.9
TUNING_AUGMENT: Final = "light"
TUNING_VIEWS: Final = 4
"""Number of augmented views of each training picture that the epochs of fine-tuning take in turn."""
CACHE_SHARE: Final = 0.25
"""Largest share of the free disk for the activations of frozen layers, unless the user sets a size."""

# Defaults and limits of indexes
INDEX_BLOCK_BYTES: Final = 32 << 20
"""Size in bytes of one block of float32 vectors; index building and exact search read the vectors in such blocks."""
EXACT_SCAN_BYTES: Final = 512 << 20
"""Maximum bytes of vectors for exact search: 65,536 rows of 2048 float32. A scan at about 10 GB/s answers one query in
about 50 ms; in batches, matrix products answer hundreds of queries per second."""
RECALL: Final = 0.95
"""Default target of recall@k when an approximate index is tuned."""
TUNING_QUERIES: Final = 1000
CHECK_QUERIES: Final = 2000
"""Number of test queries for the recall of an index, held out from tuning. With 2,000 queries, the 95 % interval of a
recall of 0.95 is less than 2 points wide."""
FEWEST_QUERIES: Final = 100
"""Minimum number of new pictures for measuring the recall of an index again after growth."""
UNMEASURED_GROWTH: Final = 0.1
"""Maximum share of new rows in an index: the rows added since the last measurement of recall, divided by the rows at
that measurement. Above this share, the recall counts as unknown.
"""
EXPORTED_NEIGHBOURS: Final = 100
"""Number of true neighbours per query in a file for ann-benchmarks, as in the published files of ann-benchmarks."""
LESS_WEIGHT: Final = 0.5
"""Default weight w of "less like": the query is m + w (m - l), with the mean vectors m of wanted and l of unwanted
pictures."""
HNSW_LINKS: Final = 32
HNSW_CONSTRUCTION: Final = 100
"""HNSW construction parameters M and efConstruction."""
CONTRACT_SAMPLE_BYTES: Final = 512 << 20
"""Maximum bytes of float32 vectors for comparing candidate index types; larger data is sampled."""
INDEX_TRAINING_ROWS: Final = 65536
"""Number of rows for training k-means clusters and product quantizers; k-means needs 39 to 256 points per centroid."""
DUPLICATE_COSINE: Final = 0.8
"""Minimum cosine (after subtracting the mean vector) of near-duplicates.

tests/slow/planted_duplicates.py added 150 copies of each kind to two sets, hymenoptera (398 pictures) and 2,000 cats
and dogs, with EfficientNet-Lite0. Each line has the shares of the copies found in the two sets with a minimum cosine of
0.8, and in brackets with 0.75.

* another format, or mirrored: 1.00, 1.00
* half size: 0.91, 0.98 (0.97, 0.99); quarter size: 0.02, 0.30 (0.07, 0.48)
* JPEG quality 50: 0.94, 0.99 (0.97, 1.00); quality 20: 0.39, 0.88 (0.68, 0.95)
* half size and JPEG quality 50: 0.06, 0.62 (0.15, 0.73)
* 5 % cut off each side: 0.96, 0.99 (1.00, 0.99); 10 %: 0.77, 0.83 (0.93, 0.95)
* 30 % brighter: 0.99, 0.99 (0.99, 0.99); gray: 0.13, 0.48 (0.32, 0.73)

Without added copies, no near-duplicates are found in the first set with 0.8 or with 0.75. In the second set, 2 groups
(4 pictures) are found with 0.8, and 11 groups (26 pictures) with 0.75. The number of wrong pairs grows with the square
of the number of pictures, so 0.8 is the default.
"""

# Defaults of units of a network
UNIT_PICTURES: Final = 12
"""Number of pictures that activate a unit most (and of those that activate it least)."""
UNITS_OF_CLASS: Final = 5
"""Number of units that speak most for a class of a head."""
