"""What runs import besides the registrations: importing this module is the whole of its use.

It is for the server from which the runs of a study are forked, and for a run that waits for its turn.
"""

import importlib

# Without scikit-learn an evaluation of a study takes twice as long. PyTorch imports the last one for a network without
# data, by which every run finds the width of its head.
for _name in (
    *("vissl.engines", "vissl.hooks", "vissl.trainer", "vissl.utils.distributed_launcher"),
    *(f"vissl_clusterfit.launch.{name}" for name in ("compose.compose", "runs.benchmark_suite", "runs.execute")),
    *(f"sklearn.{name}" for name in ("linear_model", "model_selection", "pipeline", "preprocessing", "svm")),
    "torch.fx.experimental.symbolic_shapes",
):
    importlib.import_module(_name)

# Hydra's plugins and parser, and VISSL's defaults and what it registers, which the first composition imports and reads.
importlib.import_module("vissl_clusterfit.launch.compose.overrides").compose_overrides(
    ["config=test/cpu_test/test_cpu_resnet_simclr"]
)
