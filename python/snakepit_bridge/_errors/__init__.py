"""How calls and the worker itself fail, and how exceptions are described."""
