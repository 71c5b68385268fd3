"""PyTorch's compiler is imported where something is compiled, and only there."""

import os
import subprocess
import sys
from pathlib import Path

from vissl_clusterfit import compat

_USES = """
import sys
from vissl_clusterfit import compat
compat.apply()
import torch
from torchvision.transforms import v2

def trained() -> list[float]:
    weight = torch.nn.Parameter(torch.arange(4.0))
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        optimizer = kind([weight], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
            assert torch.is_grad_enabled()
    return weight.tolist()

image = v2.functional.to_image(torch.zeros(3, 4, 4))
assert type(v2.functional.horizontal_flip(image)) is type(image)
def network_of_processes() -> torch.nn.Module:
    return torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2), gradient_as_bucket_view=True)

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
assert network_of_processes()._use_python_reducer is False
before = trained()
assert "torch._dynamo" not in sys.modules, "imported by what compiles nothing"

doubled = torch.compile(lambda values: torch.relu(values) * 2, backend="eager")
assert doubled(torch.tensor([-1.0, 1.5])).tolist() == [0.0, 3.0]
assert "torch._dynamo" in sys.modules
assert trained() == before
assert type(v2.functional.horizontal_flip(image)) is type(image)

assert network_of_processes()._use_python_reducer is False
torch._dynamo.config.optimize_ddp = "python_reducer"
assert network_of_processes()._use_python_reducer is True

from torchvision.ops import roi_align
pooled = roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]]), 2)
assert pooled.flatten().tolist() == [1.0] * 4
"""


def test_optimizers_transforms_and_networks_of_processes_do_not_import_the_compiler_and_work_with_it():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(compat.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", _USES], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
