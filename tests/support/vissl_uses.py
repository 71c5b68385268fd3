"""What is used of VISSL where it breaks without a repair, in processes where nothing is loaded.

The functions named like a repair fail without it; the others are what has to hold with all of them.
"""

import collections
import importlib
import json
import os
import pickle
import pkgutil
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from vissl_clusterfit.compat import repairs


def collections_mutable_mapping(_folder: Path) -> None:
    from classy_vision.generic.util import flatten_dict as flatten_classy
    from vissl.utils.misc import flatten_dict

    assert flatten_dict({"top_1": {"res5": 100}}) == {"top_1_res5": 100}
    assert flatten_classy({"top_1": {"res5": 100}}) == {"top_1_res5": 100}


def trusted_checkpoints(folder: Path) -> None:
    import torch
    from classy_vision.generic.util import load_checkpoint

    torch.save({"args": Namespace(arch="resnet50")}, folder / "trusted.torch")
    assert load_checkpoint(str(folder / "trusted.torch"), torch.device("cpu"))["args"].arch == "resnet50"
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(folder / "trusted.torch", weights_only=True)


def pkg_resources_stand_in(_folder: Path) -> None:
    import vissl.utils.collect_env
    import vissl.utils.misc

    stand_in = vissl.utils.misc.pkg_resources
    assert Path(stand_in.resource_filename("configs", "config/test/integration_test/quick_simclr.yaml")).is_file()
    assert stand_in.get_distribution("vissl").version == "0.1.6"
    assert vissl.utils.misc.get_json_data_catalog_file().endswith("config/dataset_catalog.json")
    assert "numpy" in vissl.utils.collect_env.collect_env_info()
    assert "pkg_resources" not in sys.modules


def kinetics400_alias(_folder: Path) -> None:
    from classy_vision.dataset import DATASET_REGISTRY

    assert "kinetics400" in DATASET_REGISTRY


def numpy_aliases(_folder: Path) -> None:
    import numpy as np
    import torch
    from vissl.utils.instance_retrieval_utils.evaluate import compute_map
    from vissl.utils.instance_retrieval_utils.rmac import get_rmac_descriptors
    from vissl.utils.svm_utils.evaluate import get_precision_recall

    # Right, wrong, right, wrong: half of the recall at precision 1, half at 2/3.
    *_, average_precision = get_precision_recall(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1]))
    np.testing.assert_allclose(average_precision, 5 / 6)
    mean_average_precision, *_ = compute_map(np.array([[0], [1], [2]]), [{"ok": [0], "junk": [1]}], [1])
    assert mean_average_precision == 1
    assert get_rmac_descriptors(torch.rand(2, 3, 4, 4), 1).shape == (2, 1, 3)
    assert vars(np)["in1d"]([[1, 2], [3, 4]], [2, 3]).tolist() == [False, True, True, False]


def checkpoint_types(folder: Path) -> None:
    import numpy as np
    import torch
    from classy_vision.generic.util import load_checkpoint
    from vissl.config import AttrDict

    # Below, as VISSL before 0.1.6 and NumPy before 2.0 wrote it; the class is there under both names.
    for module in ("vissl.config.attr_dict", "vissl.utils.hydra_config"):
        importlib.import_module(module)
        AttrDict.__module__ = module
        checkpoint = {
            "config": AttrDict({"MODEL": {"TRUNK": {"NAME": "resnet"}}}),
            "loss": np.float64(0.5),
            "iteration": np.int64(3),
            "classy_state_dict": {"base_model": {"model": {"trunk": {"weight": torch.arange(3.0)}}}},
        }
        for in_a_zip_file in (True, False):
            path = folder / f"{module}.{in_a_zip_file}.torch"
            torch.save(checkpoint, path, _use_new_zipfile_serialization=in_a_zip_file)
            loaded = load_checkpoint(str(path), torch.device("cpu"))
            assert AttrDict(loaded["config"]).MODEL.TRUNK.NAME == "resnet"
            assert (loaded["loss"], loaded["iteration"]) == (0.5, 3)
            weights = loaded["classy_state_dict"]["base_model"]["model"]["trunk"]["weight"]
            assert weights.tolist() == [0, 1, 2]


def cluster_assignment_config(folder: Path) -> None:
    import numpy as np
    from vissl.config import AttrDict
    from vissl.utils.cluster_utils import ClusterAssignment, ClusterAssignmentLoader

    config = AttrDict({"DATA": {"TRAIN": {"DATASET_NAMES": ["digits"]}}})
    saved = ClusterAssignment(config=config, cluster_assignments={"TRAIN": {0: np.int64(7)}})
    ClusterAssignmentLoader.save_cluster_assignment(str(folder), saved)
    loaded = ClusterAssignmentLoader.load_cluster_assigment(str(folder / "cluster_assignments.torch"))
    assert loaded.config.DATA.TRAIN.DATASET_NAMES == ["digits"]
    assert loaded.cluster_assignments == {"TRAIN": {0: 7}}


def images_read_once(folder: Path) -> None:
    import pickle

    from PIL import Image
    from vissl.config import AttrDict
    from vissl.data.disk_dataset import DiskImageDataset

    (folder / "images/of").mkdir(parents=True)
    for red in (0, 1):
        Image.new("RGB", (4, 3), (red, 0, 0)).save(folder / f"images/of/{red}.png")
    queue = {"ENABLE_QUEUE_DATASET": False, "BATCHSIZE_PER_REPLICA": 1}
    data = AttrDict({"DATA": {"TRAIN": {"REMOVE_IMG_PATH_PREFIX": "", "NEW_IMG_PATH_PREFIX": "", **queue}}})
    images = DiskImageDataset(data, "disk_folder", str(folder / "images"), "TRAIN", "two")
    images = pickle.loads(pickle.dumps(images))  # as it goes to processes that read
    read, loader = [], images.image_dataset.loader
    images.image_dataset.loader = lambda path: read.append(Path(path).stem) or loader(path)
    order = [0, 1, 1, 0]
    assert [images[index][0].getpixel((0, 0))[0] for index in order] == order
    assert read == [*map(str, order)]


def a_checkpoint_that_runs_a_command_is_refused(folder: Path) -> None:
    import torch
    from classy_vision.generic.util import load_checkpoint

    class Command:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {folder / 'ran'}",)

    torch.save({"classy_state_dict": Command()}, folder / "malicious.torch")
    with pytest.raises(pickle.UnpicklingError, match=r"unsupported GLOBAL posix\.system"):
        load_checkpoint(str(folder / "malicious.torch"), torch.device("cpu"))
    assert not (folder / "ran").exists()
    # It is a good command: only the repair's default stands between it and us.
    torch.load(folder / "malicious.torch", weights_only=False)
    assert (folder / "ran").exists()


def the_mean_average_precision_meter_works(_folder: Path) -> None:
    import torch
    from vissl.meters.mean_ap_meter import MeanAPMeter

    meter = MeanAPMeter({"num_classes": 2})
    meter.update(torch.eye(2), torch.eye(2, dtype=torch.int8))
    meter.sync_state()
    assert meter.value["mAP"] == 1


def applying_again_changes_nothing(_folder: Path) -> None:
    import numpy as np
    from classy_vision.generic import util

    def state():
        return util.save_checkpoint, vars(np)["in1d"], collections.MutableMapping, list(sys.meta_path)

    before, names = state(), repairs.apply()
    assert repairs.apply() == names
    assert state() == before


def all_modules_import(_folder: Path) -> None:
    # Of what the wheel brings, only this needs a package that is not there.
    needs = {"classy_vision.distributed.launch_ray": "ray"}
    failures = {}
    for package in map(importlib.import_module, ("vissl", "classy_vision")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda _: None):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                if getattr(error, "name", None) != needs.get(module.name, ""):
                    failures[module.name] = repr(error)
    assert not failures, failures
    assert len([name for name in sys.modules if name.startswith("vissl.")]) > 150


USES = {
    use.__name__: use
    for use in (
        collections_mutable_mapping,
        trusted_checkpoints,
        pkg_resources_stand_in,
        kinetics400_alias,
        numpy_aliases,
        checkpoint_types,
        cluster_assignment_config,
        images_read_once,
    )
}
# Not a repair, but what has to hold with all of them.
CHECKS = {
    check.__name__: check
    for check in (
        a_checkpoint_that_runs_a_command_is_refused,
        the_mean_average_precision_meter_works,
        applying_again_changes_nothing,
        all_modules_import,
    )
}


def child(uses: list[str], without: list[str], late: bool, result: str) -> None:
    """Runs in a process of its own, whose only repairs are those that are not left out."""
    used = {name: repair for name, repair in repairs.REPAIRS.items() if name not in without}
    repairs.REPAIRS.clear()
    if late:  # First only what VISSL cannot be imported without.
        first = ("pkg_resources_stand_in", "kinetics400_alias")
        repairs.REPAIRS.update({name: used[name] for name in first})
        repairs.apply()
        for module in {module for repair in used.values() for module in repair.modules}:
            importlib.import_module(module)
    repairs.REPAIRS.update(used)
    repairs.apply()
    outcomes, tracebacks = {}, {}
    with TemporaryDirectory() as folder:
        for name in uses:
            try:
                (USES | CHECKS)[name](Path(folder))
                outcomes[name] = "works"
            except Exception as error:
                outcomes[name], tracebacks[name] = f"{type(error).__name__}: {error}", traceback.format_exc()
    content = {"outcomes": outcomes, "tracebacks": tracebacks, "made": repairs.apply()}
    Path(result).write_text(json.dumps(content), encoding="utf-8")
