import sys

from planmesh.cli import main

if __name__ == "__main__":
    sys.exit(main())
