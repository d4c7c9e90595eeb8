"""Where the files of a store are, how one appears whole, and who may write."""
