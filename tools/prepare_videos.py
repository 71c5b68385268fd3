"""``vissl-clusterfit prepare``, from a clone."""

import sys

from vissl_clusterfit.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
