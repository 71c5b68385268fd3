"""Runs any config of ours or of VISSL: ``python tools/run_distributed_engines.py config=<name> [overrides …]``.

Examples:
    python tools/run_distributed_engines.py config=clusterfit/quickstart/teacher
    python tools/run_distributed_engines.py config=pretrain/simclr/simclr_8node_resnet +config/clusterfit=student \
        config.CLUSTERFIT.TEACHER.WEIGHTS=teacher.torch config.DATA.TRAIN.DATA_PATHS=[images]
"""

import sys

from vissl_clusterfit.launch.main import main

if __name__ == "__main__":
    sys.exit(main())
