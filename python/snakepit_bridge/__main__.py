import sys

if not __package__:
    # If run by its path, the modules in this directory would hide those of the standard library.
    del sys.path[0]

from snakepit_bridge._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
