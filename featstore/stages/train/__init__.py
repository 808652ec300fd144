"""Train a head on a store, or train an existing head again with the options that it recorded."""

from featstore.stages.train.again import AgainReport, retrain, train_again
from featstore.stages.train.report import Replaced, TrainReport, scale_of
from featstore.stages.train.stage import Paths, assess, at_the_end, head_path, train
from featstore.stages.train.tasks import numbers_of, truth_of

__all__ = [
    "AgainReport",
    "Paths",
    "Replaced",
    "TrainReport",
    "assess",
    "at_the_end",
    "head_path",
    "numbers_of",
    "retrain",
    "scale_of",
    "train",
    "train_again",
    "truth_of",
]
