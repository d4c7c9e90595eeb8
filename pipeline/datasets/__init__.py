"""One module a dataset: its files on disk to a `Listing`."""
