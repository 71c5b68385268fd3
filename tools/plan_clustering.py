"""``vissl-clusterfit plan``, from a clone."""

import sys

from vissl_clusterfit.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
