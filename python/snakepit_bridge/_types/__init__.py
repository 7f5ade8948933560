"""What is sent in place of a value of a type that JSON does not have."""
