"""Files on disk: atomic writes, sealed HDF5 files, and the only module that imports h5py."""
