"""``python -m muse``: the command, where its script is not on the path."""

from muse.cli.app import main

if __name__ == "__main__":  # a decoding process imports this module too, and must not run it
    main()
