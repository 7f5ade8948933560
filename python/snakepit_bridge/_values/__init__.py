"""Values as bytes: JSON, extended JSON, and the fields of a message."""
