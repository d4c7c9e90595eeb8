"""A store in other forms: one HDF5 file, tables of vectors."""
