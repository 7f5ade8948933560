"""Where commands and hooks run: the main thread, other threads, the event loop."""
