"""`python -m snakepit_bridge`: starts a worker, or runs and lists commands from the shell."""
