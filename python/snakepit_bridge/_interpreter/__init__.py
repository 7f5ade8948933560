"""Runs code that callers send, for exploring: `snakepit_bridge.Interpreter`."""
