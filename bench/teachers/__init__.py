"""Teachers: the file name is the id."""
