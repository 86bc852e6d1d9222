"""Values that come from files or are sealed."""
