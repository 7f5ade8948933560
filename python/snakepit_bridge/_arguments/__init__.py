"""The values that a command's annotations ask for, built from what has arrived."""
