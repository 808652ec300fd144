"""Classify pictures or the rows of a store, by a trained head or by texts."""

from featstore.stages.predict.result import Prediction, Predictions
from featstore.stages.predict.stage import predict, predict_by_text

__all__ = ["Prediction", "Predictions", "predict", "predict_by_text"]
