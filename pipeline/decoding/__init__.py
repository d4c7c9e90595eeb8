"""Files to clips, in processes that may die."""
