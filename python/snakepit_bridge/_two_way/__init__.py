"""Two-way calls: commands ask their callers' tools, and read input streams."""
