"""`python -m raymtl`."""

from raymtl.cli.__main__ import main

if __name__ == "__main__":
    main()
