"""Our configs alone, ours on VISSL's, and VISSL's own, all through our launcher; nothing is run here.

On a machine without a GPU each needs ``config.MACHINE.DEVICE=cpu``; nothing else is overridden.
"""

from pathlib import Path

import pytest
import vissl
import yaml

from vissl_clusterfit.config.search_path import config_dir
from vissl_clusterfit.launch.compose.compose import compose

OURS = config_dir() / "config"
VISSLS = Path(vissl.__file__).resolve().parents[1] / "configs/config"

# Parts of configs, which VISSL lays over whole ones, and Detectron2's.
PARTS = {
    *("architectures", "dataset", "datasets", "epochs", "heads", "models", "optimization", "optimizations"),
    *("optimizers", "permutations", "semi_sup_datasets", "transforms", "trunk_only", "with_head"),
    "object_detection",
}


def whole_configs(folder: Path, below: str) -> list[str]:
    names = (file.relative_to(folder).with_suffix("") for file in folder.glob(f"{below}/**/*.yaml"))
    return sorted(str(name) for name in names if not PARTS & set(name.parts))


@pytest.fixture
def composed(tmp_path):
    def run(*overrides: str):
        return compose([*overrides, "config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])

    return run


# Parts of a study, as its data; a whole one wants its places to be named.
PARTS_OF_STUDIES = ("clusterfit/study/common", "clusterfit/study/embedded", "clusterfit/study/data/")
PLACES_OF_STUDY = [
    f"study.{name}=somewhere" for name in ("folder", "pretrain", "train", "validation", "test", "teacher")
]
ENGINES = {"train", *(f"clusterfit_{name}" for name in ("assign", "transfer", "tune", "study", "video_accuracy"))}


def places(name: str) -> list[str]:
    if not name.startswith("clusterfit/study/"):
        return []
    return PLACES_OF_STUDY if name.endswith("own_teacher") else PLACES_OF_STUDY[:1]


# Those below transfer/ do so in test_transfer_targets.py.
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in whole_configs(OURS, "clusterfit")
        if not name.startswith((*PARTS_OF_STUDIES, "clusterfit/transfer/"))
    ],
)
def test_ours_compose_alone(composed, name):
    engine, _, config = composed(f"config={name}", *places(name))
    assert engine in ENGINES
    sources = config.DATA.TRAIN.DATA_SOURCES
    if sources:  # not in those that are laid over others
        assert sources[0].startswith("clusterfit_") == (config.LOSS.name == "clusterfit_loss")


def test_what_follows_from_a_config_is_filled_in_and_told(composed, capsys):
    config = composed(
        "config=pretrain/swav/swav_8node_resnet",
        "+config/clusterfit=student",
        "config.CLUSTERFIT.NUM_CLUSTERS=50",
        "config.DATA.TRAIN.DATA_PATHS=[images]",
        "config.TEST_MODEL=true",
    )[2]
    frozen = yaml.safe_load((VISSLS / "pretrain/swav/swav_8node_resnet.yaml").read_text())
    frozen = frozen["config"]["MODEL"]["TEMP_FROZEN_PARAMS_ITER_MAP"]
    crops = "ImgPilToMultiCrop + RandomHorizontalFlip + ImgPilColorDistortion + ImgPilGaussianBlur"
    assert capsys.readouterr().out.splitlines() == [
        # What the overlay replaces,
        "config.DATA.TRAIN.LABEL_TYPE: 'sample_index' becomes 'standard', as a sample is an image and its cluster.",
        f"config.DATA.TRAIN.TRANSFORMS: {crops} + ToTensor + Normalize becomes RandomResizedCrop 224 + ColorJitter + "
        "RandomHorizontalFlip + ToTensor + Normalize, one view per image.",
        "config.DATA.TRAIN.COLLATE_FUNCTION: 'multicrop_collator' becomes 'default_collate', as there is one view per "
        "image.",
        f"config.MODEL.TEMP_FROZEN_PARAMS_ITER_MAP: {frozen} becomes [], as the whole network is trained.",
        "config.MODEL.HEAD.PARAMS: swav_head becomes clusterfit_head, one linear layer per codebook, as wide as it has "
        "clusters.",
        "config.MODEL.SYNC_BN_CONFIG.SYNC_BN_TYPE: 'apex' becomes 'pytorch', as Apex is not needed for it.",
        "config.MODEL.AMP_PARAMS.AMP_TYPE: 'apex' becomes 'pytorch', as Apex is not needed for it.",
        "config.LOSS.name: 'swav_loss' becomes 'clusterfit_loss', cross-entropy over the clusters.",
        "config.OPTIMIZER.use_larc: True becomes False, by the recipe of VISSL's ClusterFit.",
        "config.OPTIMIZER.weight_decay: 1e-06 becomes 0.0001, by the recipe of VISSL's ClusterFit.",
        "config.OPTIMIZER.num_epochs: 400 becomes 105, by the recipe of VISSL's ClusterFit.",
        "config.OPTIMIZER.regularize_bn: True becomes False, by the recipe of VISSL's ClusterFit.",
        "config.OPTIMIZER.param_schedulers.lr: linear + cosine becomes linear + multistep, by the recipe of VISSL's "
        "ClusterFit.",
        # and what follows from the rest.
        "config.DISTRIBUTED.BACKEND: 'nccl' becomes 'gloo', as NCCL needs GPUs.",
        "config.MODEL.AMP_PARAMS.USE_AMP: True becomes False, as VISSL's mixed precision needs GPUs.",
        "config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN: True becomes False, as synchronised batch normalisation "
        "needs GPUs.",
        "config.DATA.TRAIN.DATA_SOURCES: ['disk_folder'] becomes ['clusterfit_disk_folder'], "
        "paired with the pseudo-labels.",
        "config.DATA.TRAIN.LABEL_SOURCES: [] becomes ['torchvision_dataset'], which asks the paired source.",
        "config.TEST_MODEL: True becomes False, as no held-out split is labelled (CLUSTERFIT.FEATURES.TEST_PARTITION).",
        "config.METERS.names: [] becomes ['clusterfit_accuracy_meter'], which leaves out samples without a label.",
        "config.MODEL.HEAD.PARAMS: in_features of clusterfit_head: None becomes 2048, the width of the trunk resnet.",
    ]
    assert config.LOSS.clusterfit_loss.num_clusters == config.MODEL.HEAD.PARAMS[0][1]["num_clusters"] == 50
    assert config.DATA.TRAIN.LABEL_PATHS == [""]  # without any VISSL looks for the data set in its catalogue


def test_several_data_sources_become_one_batch(composed, capsys):
    overrides = [
        "config=test/cpu_test/test_cpu_resnet_simclr",
        "+config/clusterfit=student",
        "config.DATA.TRAIN.DATA_SOURCES=[disk_folder,synthetic]",
        "config.DATA.TRAIN.DATASET_NAMES=[one,two]",
        'config.DATA.TRAIN.DATA_PATHS=[images,""]',
    ]
    train = composed(*overrides)[2].DATA.TRAIN
    assert train.DATA_SOURCES == ["clusterfit_disk_folder", "clusterfit_synthetic"]
    assert (train.LABEL_SOURCES, train.LABEL_PATHS) == (["torchvision_dataset"] * 2, [""] * 2)
    assert (
        "config.DATA.TRAIN.COLLATE_FUNCTION: 'default_collate' becomes 'simclr_collator', which makes one batch of the "
        "images of all data sources, as VISSL's train step takes one."
    ) in capsys.readouterr().out
    own = "config.DATA.TRAIN.COLLATE_FUNCTION=multicrop_collator"
    assert composed(*overrides, own)[2].DATA.TRAIN.COLLATE_FUNCTION == "multicrop_collator"


def test_synthetic_images_need_no_path(composed):
    config = composed("config=test/cpu_test/test_cpu_resnet_simclr", "+config/clusterfit=student")[2]
    assert (config.DATA.TRAIN.DATA_SOURCES, config.DATA.TRAIN.DATA_PATHS) == (["clusterfit_synthetic"], [""])


def test_other_losses_are_left_alone(composed, capsys):
    config = composed("config=test/cpu_test/test_cpu_resnet_simclr")[2]
    assert capsys.readouterr().out == "config.OPTIMIZER.use_larc: by VISSL's own LARC, as Apex is not installed.\n"
    assert (config.DATA.TRAIN.DATA_SOURCES, config.METERS.names) == (["synthetic"], [])


@pytest.mark.parametrize("name", ["imagenet1k/rotnet_resnet50", "imagenet1k/jigsaw_resnet50"])
def test_the_papers_recipe(composed, name):
    """Paper, section 4.2: ResNet-50, K = 16,000, and 105 epochs on batches of 256 with a learning rate of 0.1."""
    config = composed(f"config=clusterfit/{name}")[2]
    assert (config.MODEL.TRUNK.NAME, config.MODEL.TRUNK.RESNETS.DEPTH) == ("resnet", 50)
    assert config.CLUSTERFIT.NUM_CLUSTERS == config.LOSS.clusterfit_loss.num_clusters == 16000
    assert config.MODEL.HEAD.PARAMS == [["clusterfit_head", {"num_clusters": 16000, "in_features": 2048}]]
    assert config.DATA.TRAIN.BATCHSIZE_PER_REPLICA * config.DISTRIBUTED.NUM_PROC_PER_NODE == 256
    assert config.OPTIMIZER.num_epochs == 105
    rates = config.OPTIMIZER.param_schedulers.lr
    assert (rates.name, rates.milestones) == ("multistep", [30, 60, 90, 100])
    assert rates["values"] == pytest.approx([0.1, 0.01, 0.001, 0.0001, 0.00001])


@pytest.mark.slow
@pytest.mark.parametrize("group", ["benchmark", "debugging", "extract_cluster", "feature_extraction", "test"])
def test_vissls_own_compose(composed, group):
    """Those below pretrain/ do so in test_overlay.py."""
    for name in whole_configs(VISSLS, group):
        composed(f"config={name}")
