"""The parts of ``benchmarks/kill_resume.py``."""

import os

# Libraries read them when they are loaded, which is after this.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
