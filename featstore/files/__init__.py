"""File formats and file access: atomic writes, sealed HDF5 files (with checksums), Parquet, picture signatures."""
