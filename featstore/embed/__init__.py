"""Turn pictures into vectors: load and decode pictures, run the backbone, write the vectors or return them."""
