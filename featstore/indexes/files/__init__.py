"""Index files: reading, writing and checking them, and the only module that imports faiss."""
