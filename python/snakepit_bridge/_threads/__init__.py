"""Runs commands and hooks: in the main thread, in other threads, on the event loop."""
