"""Fine-tuning: networks divided into a frozen and a trained part, with a trained head in place of the classifier."""
