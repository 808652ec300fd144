"""From pictures to vectors: one recipe (backbone, engine, identity), one loader, one pipeline, and embedders."""
