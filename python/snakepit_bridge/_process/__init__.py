"""The worker's process: its command line, its parent, its output, and the adapter it loads."""
