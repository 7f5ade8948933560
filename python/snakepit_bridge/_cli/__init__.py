"""`python -m snakepit_bridge`: a worker's command line, and its commands from the shell."""
