"""What is read from the source is what VISSL and the package register."""

import subprocess
import sys

import pytest
import torch.nn.modules.loss
import torchvision.transforms
import torchvision.transforms._transforms_video

from vissl_clusterfit.launch.compose.registered_names import REGISTRIES, live_names, read_names, registered_names


@pytest.mark.parametrize("kind", REGISTRIES)
def test_the_names_that_are_read_are_those_of_the_registry(kind):
    assert read_names(kind) == live_names(kind)


def test_names_are_looked_up_where_vissl_falls_back_to():
    losses = {name for name in vars(torch.nn.modules.loss) if name.endswith("Loss") and not name.startswith("_")}
    assert losses <= registered_names("loss")
    assert set(torchvision.transforms.transforms.__all__) <= registered_names("transform")
    assert set(torchvision.transforms._transforms_video.__all__) <= registered_names("transform")


def test_a_module_of_the_users_may_register_names(tmp_path):
    """Its names are known before anything starts, and it is the registry itself that is asked."""
    (tmp_path / "mine.py").write_text(
        "from classy_vision.losses import ClassyLoss, register_loss\n"
        "@register_loss('loss_of_mine')\nclass Mine(ClassyLoss):\n    pass\n"
    )
    code = (
        "from vissl_clusterfit.launch.compose.registered_names import registered_names\n"
        "assert {'loss_of_mine', 'clusterfit_loss', 'CrossEntropyLoss'} <= registered_names('loss')"
    )
    environment = {"VISSL_CLUSTERFIT_IMPORT": "mine", "PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
