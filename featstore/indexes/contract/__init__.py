"""The recall contract: choose, tune and check the fastest index with a promised recall."""
