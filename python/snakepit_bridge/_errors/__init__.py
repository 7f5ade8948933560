"""How calls, hooks and the worker itself fail, and what is told of it."""
