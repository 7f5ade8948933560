import sys

if not __package__:
    # Run by its path: what lies beside it would go before the standard library's modules.
    del sys.path[0]

from snakepit_bridge._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
