"""The worker's process: its options, its parent, its signals, its output, its imports."""
