"""Fine-tuning: divide a network into a frozen and a trained part, and train a head in place of its classifier."""
