import sys

from snakepit_bridge._cli import main

if __name__ == "__main__":
    sys.exit(main())
