"""The heads as scikit-learn classifiers."""
