"""Students: the file name is the id."""
