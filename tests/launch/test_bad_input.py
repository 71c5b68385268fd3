"""What a user gets wrong: one message, exit code 2, and nothing on disk that looks done."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from tiny import write_images

from vissl_clusterfit.launch import main

# What is written before the first step of any training: VISSL's config and log, and our record of what it is made from.
BEFORE_A_STEP = {"train_config.yaml", "log.txt", "stdout.json", "training.json"}
_LR = "config.OPTIMIZER.param_schedulers.lr"


def require_refusal(result, *fragments: str) -> None:
    """The exit code of a user's mistake, and one message on stderr that holds all ``fragments``."""
    assert result.returncode == main.USER_ERROR, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error: ") == 1, result.stderr
    message = result.stderr.partition("error: ")[2]
    assert all(fragment in message for fragment in fragments), message


def require_nothing_half_written(folder):
    """No artefact says that it is complete, no file is half there, and VISSL wrote no checkpoint."""
    manifests = [json.loads(file.read_text()) for file in folder.rglob("manifest.json")]
    assert [manifest["kind"] for manifest in manifests if manifest.get("complete", True)] == []
    assert list(folder.rglob("*.tmp")) == []
    assert {path.name for path in folder.glob("*")} <= {*BEFORE_A_STEP, "clusterfit"}


@pytest.fixture
def refuse(tmp_path, run_command, student_overrides):
    """Runs the student's config with a mistake in it."""

    def run(*mistake: str):
        folder = tmp_path / "run"
        result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", *mistake, cwd=tmp_path)
        require_nothing_half_written(folder)
        return result

    return run


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


# What is wrong, and what the message says.
MISTAKES = {
    "a key that does not exist": (
        ["+config.CLUSTERFIT.FOO=1"],
        ["config.CLUSTERFIT.FOO: found an unknown key; allowed: OUTPUT_DIR, NUM_CLUSTERS"],
    ),
    "a misspelt key": (
        ["+config.CLUSTERFIT.FEATURES.LAYER=res5"],
        ["config.CLUSTERFIT.FEATURES.LAYER: found an unknown key", "Did you mean LAYER_NAME?"],
    ),
    "two bad values": (
        ["config.CLUSTERFIT.NUM_CLUSTERS=0", "config.CLUSTERFIT.METRIC=l1"],
        ["NUM_CLUSTERS: found 0; allowed: at least 1", "METRIC: found 'l1'; allowed: 'l2' | 'cosine'"],
    ),
    "an unknown override": (
        ["config.CLUSTERFIT.NUM_CLUSTER=4"],
        ["config.CLUSTERFIT.NUM_CLUSTER, a key that does not exist", "Did you mean config.CLUSTERFIT.NUM_CLUSTERS"],
    ),
    "an override of another form": (
        ["config.SEED_VALUE"],
        ["'config.SEED_VALUE': found no =; allowed: key=value"],
    ),
    "an interpolation that leads nowhere": (
        ["config.CLUSTERFIT.OUTPUT_DIR='${config.CHECKPOINT.FOLDER}'"],
        ["The config cannot be composed: Interpolation key 'config.CHECKPOINT.FOLDER' not found"],
    ),
    "a schedule that is longer than the training": (
        [f"{_LR}={{name:multistep,values:[0.1,0.01,0.001],milestones:[30,60],update_interval:epoch}}"],
        [f"{_LR}: found multistep with milestones [30, 60], for config.OPTIMIZER.num_epochs=1;", f"{_LR}.name=cosine"],
    ),
    "a device that does not exist": (
        ["config.MACHINE.DEVICE=cuda"],
        ["config.MACHINE.DEVICE: found 'cuda'; allowed: 'cpu' | 'gpu'"],
    ),
    "no number where the nodes are counted": (
        ["node_id=first"],
        ["node_id: found 'first'; allowed: a value of type int"],
    ),
    "a back end that PyTorch has not": (
        ["config.DISTRIBUTED.BACKEND=mpi"],
        ["config.DISTRIBUTED.BACKEND: found 'mpi'; allowed: 'gloo' | 'nccl'"],
    ),
    "several nodes, and no address of the first": (
        ["config.DISTRIBUTED.NUM_NODES=2"],
        ["config.DISTRIBUTED.RUN_ID: found 'auto' for 2 nodes", "set config.DISTRIBUTED.NUM_NODES=1"],
    ),
    "fewer readers than none": (
        ["config.DATA.NUM_DATALOADER_WORKERS=-1"],
        ["config.DATA.NUM_DATALOADER_WORKERS: found -1; allowed: at least 0"],
    ),
    "readers in words": (["config.DATA.NUM_DATALOADER_WORKERS=many"], ["NUM_DATALOADER_WORKERS: found 'many'"]),
    "fewer epochs than none": (["config.OPTIMIZER.num_epochs=-1"], ["num_epochs: found -1; allowed: at least 1"]),
    "no epoch": (["config.OPTIMIZER.num_epochs=0"], ["config.OPTIMIZER.num_epochs: found 0; allowed: at least 1"]),
    "a seed of 30 digits": (
        [f"config.DATA.TRAIN.DATA_LIMIT_SAMPLING.SEED={10**29}"],
        ["DATA_LIMIT_SAMPLING.SEED: found 1000", "allowed: at least 0 and at most 4294967295"],
    ),
    "a seed of the sample of 30 digits": (
        [f"config.CLUSTERFIT.DATA_LIMIT_SAMPLING.SEED={10**29}"],
        ["config.CLUSTERFIT.DATA_LIMIT_SAMPLING.SEED: found 1000", f"at most {2**63 - 1}"],
    ),
    "a seed of 64 bits": (
        [f"config.CLUSTERFIT.SEED={2**63}"],
        [f"SEED: found {2**63}; allowed: at least 0 and at most"],
    ),
    "a seed that VISSL's epochs multiply beyond 32 bits": (
        ["config.OPTIMIZER.num_epochs=3", f"config.SEED_VALUE={2**31}"],
        [f"config.SEED_VALUE: found {2**31}; allowed: 0 to {(2**32 - 1) // 3}"],
    ),
    "a bound of any size": (
        ["config.CLUSTERFIT.MAX_CLUSTER_SIZE=1e300"],
        ["MAX_CLUSTER_SIZE: found 1e+300; allowed: 0 for no bound, or 1 to 1000000"],
    ),
    "iterations without end": (
        ["config.CLUSTERFIT.NUM_ITER=1000000000000"],
        ["config.CLUSTERFIT.NUM_ITER: found 1000000000000; allowed: at least 1 and at most 1000000"],
    ),
    "a batch of none": (
        ["config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=0"],
        ["config.DATA.TRAIN.BATCHSIZE_PER_REPLICA: found 0; allowed: at least 1"],
    ),
    "a batch larger than the data": (
        ["config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=31", "config.DATA.TRAIN.DROP_LAST=true"],
        ["BATCHSIZE_PER_REPLICA: found 31 with DROP_LAST for 30 samples; allowed: 1 to 30", "DROP_LAST=false"],
    ),
    "no checkpoint ever": (
        ["config.CHECKPOINT.CHECKPOINT_FREQUENCY=0"],
        ["config.CHECKPOINT.CHECKPOINT_FREQUENCY: found 0; allowed: at least 1"],
    ),
    "a number as a path": (
        ["config.DATA.TRAIN.DATA_PATHS=[5]"],
        ["config.DATA.TRAIN.DATA_PATHS[0]: found 5; allowed: a value of type str"],
    ),
    "transforms as text": (
        ["config.DATA.TRAIN.TRANSFORMS=ToTensor"],
        ["config.DATA.TRAIN.TRANSFORMS: found 'ToTensor'; allowed: a value of type list"],
    ),
    "a block that is none": (["config.OPTIMIZER=3"], ["config.OPTIMIZER: found 3; allowed: a value of type dict"]),
    "a block of names that is none": (
        ["config.TRAINER=null"],
        ["config.TRAINER: found None; allowed: a value of type"],
    ),
    "a block that only VISSL's hooks read": (
        ["config.PROFILING=abc"],
        ["config.PROFILING: found 'abc'; allowed: a value"],
    ),
    "a frequency in words": (
        ["config.HOOKS.PERF_STATS.PERF_STAT_FREQUENCY=abc"],
        ["config.HOOKS.PERF_STATS.PERF_STAT_FREQUENCY: found 'abc'; allowed: a value of type int"],
    ),
    "checkpoints elsewhere than on a disk": (
        ["config.CHECKPOINT.BACKEND=null"],
        ["config.CHECKPOINT.BACKEND: found None"],
    ),
    "nothing where a name must be": (
        ["config.TRAINER.TASK_NAME=null"],
        ["config.TRAINER.TASK_NAME: found None; allowed: the name of a registered task"],
    ),
    "a list where a name must be": (
        [f"{_LR}.name=[1]"],
        [f"{_LR}.name: found [1]; allowed: the name of a registered scheduler"],
    ),
    "a number where a schedule must be": ([f"{_LR}=5"], [f"{_LR}: found 5; allowed: a value of type dict"]),
    "a learning rate that is no number": (
        [f"{_LR}.value=null"],
        [f"{_LR}: found constant value=None", "which is no number at 0% of the training; allowed: a schedule"],
    ),
    "a learning rate of NaN": (
        [f"{_LR}.value=nan"],
        [f"{_LR}: found constant value=nan", "which is nan at 0%"],
    ),
    "transforms of the features that are none": (
        ["config.CLUSTERFIT.FEATURES.TRANSFORMS=[1]"],
        ["config.CLUSTERFIT.FEATURES.TRANSFORMS[0]: found 1; allowed: a value of type dict"],
    ),
    "a head without its parameters": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_head]]"],
        ["config.MODEL.HEAD.PARAMS[0]: found ['clusterfit_head']; allowed: [name, {parameters}]"],
    ),
    "a depth that the trunk does not have, and the head's width to be found": (
        ["config.MODEL.TRUNK.RESNETS.DEPTH=18"],
        ["config.MODEL: found a network that cannot be built, trunk resnet: ValueError: 18 is not a valid"],
    ),
    "a width below zero": (
        ["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=-4"],
        ["config.MODEL: found a network that cannot be built", "negative dimension -4"],
    ),
    "nothing where a number must be": (
        ["config.LOG_FREQUENCY=null"],
        ["config.LOG_FREQUENCY: found None; allowed: a value of type int"],
    ),
    "a misspelt engine": (
        ["engine_name=clusterfit_lable"],
        ["engine_name: found 'clusterfit_lable', no registered engine", "Did you mean clusterfit_label"],
    ),
    "a misspelt optimizer": (
        ["config.OPTIMIZER.name=adamv"],
        ["config.OPTIMIZER.name: found 'adamv'", "Did you mean ada"],
    ),
    "a misspelt loss": (
        ["config.LOSS.name=clusterfit_los"],
        ["config.LOSS.name: found", "Did you mean clusterfit_loss"],
    ),
    "a misspelt head": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_hed,{num_clusters:4}]]"],
        ["config.MODEL.HEAD.PARAMS[0]: found 'clusterfit_hed'", "Did you mean clusterfit_head"],
    ),
    "a misspelt head among several": (
        ["config.MODEL.HEAD.PARAMS=[[[mlp,{dims:[4,4]}],[mpl,{dims:[4,4]}]]]"],
        ["config.MODEL.HEAD.PARAMS[0][1]: found 'mpl'", "Did you mean mlp"],
    ),
    "a misspelt collator": (
        ["config.DATA.TRAIN.COLLATE_FUNCTION=default_colate"],
        ["config.DATA.TRAIN.COLLATE_FUNCTION: found 'default_colate'", "Did you mean default_collate"],
    ),
    "a misspelt trunk": (
        ["config.MODEL.TRUNK.NAME=regnett"],
        ["config.MODEL.TRUNK.NAME: found 'regnett'", "Did you mean regnet"],
    ),
    "a misspelt trunk of the teacher": (
        ["+config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME=regnt"],
        ["config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME: found 'regnt'", "Did you mean regnet"],
    ),
    "a misspelt data source": (
        ["config.DATA.TRAIN.DATA_SOURCES=[disk_foldr]"],
        ["config.DATA.TRAIN.DATA_SOURCES[0]: found 'disk_foldr'", "Did you mean disk_folder"],
    ),
    "a misspelt schedule": (
        [f"{_LR}.name=cosin"],
        [f"{_LR}.name: found 'cosin', no registered scheduler", "Did you mean cosine"],
    ),
    "a misspelt schedule of a composite": (
        [f"{_LR}={{name:composite,schedulers:[{{name:liner}}],lengths:[1.0],interval_scaling:[fixed]}}"],
        [f"{_LR}.schedulers[0].name: found 'liner'", "Did you mean linear"],
    ),
    "a misspelt meter": (
        ["config.METERS.names=[accuracy_list_meters]"],
        ["config.METERS.names[0]: found 'accuracy_list_meters'", "Did you mean accuracy_list_meter"],
    ),
    "a misspelt transform": (
        ["config.DATA.TRAIN.TRANSFORMS=[{name:RandomResizedCrp,size:32},{name:ToTensor}]"],
        ["config.DATA.TRAIN.TRANSFORMS[0].name: found 'RandomResizedCrp'", "Did you mean RandomResizedCrop"],
    ),
    "a misspelt transform of the features": (
        ["config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resiz,size:32},{name:ToTensor}]"],
        ["config.CLUSTERFIT.FEATURES.TRANSFORMS[0].name: found 'Resiz'", "Did you mean Resize"],
    ),
    "two configs": (
        ["config=pretrain/simclr/simclr_8node_resnet"],
        ["The command: found 2 configs: config=test/", "allowed: config=<name>"],
    ),
    "an = in a path": (
        ["config.CLUSTERFIT.OUTPUT_DIR=runs/config.CLUSTERFIT.SEED=0"],
        [
            "config.CLUSTERFIT.OUTPUT_DIR: found runs/",
            "\"config.CLUSTERFIT.OUTPUT_DIR='runs/config.CLUSTERFIT.SEED=0'\"",
        ],
    ),
    "brackets in a path": (
        ["config.DATA.TRAIN.DATA_PATHS=[a(1)/b]"],
        ["config.DATA.TRAIN.DATA_PATHS: found [a(1)/b]", "\"config.DATA.TRAIN.DATA_PATHS=['a(1)/b']\""],
    ),
    "spaces around the =": (
        ["config.CLUSTERFIT.NUM_CLUSTERS = 200"],
        ["found spaces around the =", '"config.CLUSTERFIT.NUM_CLUSTERS=200"'],
    ),
    "spaces around the =, which a shell has cut": (
        ["config.CLUSTERFIT.NUM_CLUSTERS", "=", "200"],
        ["'config.CLUSTERFIT.NUM_CLUSTERS': found no =", '"config.CLUSTERFIT.NUM_CLUSTERS=200"'],
    ),
    "a space after the =": (
        ["config.CLUSTERFIT.NUM_CLUSTERS=", "200"],
        ["'200': found no =", '"config.CLUSTERFIT.NUM_CLUSTERS=200"'],
    ),
    "a parameter that the loss does not take": (
        ["+config.LOSS.CrossEntropyLoss.smooth=1", "config.LOSS.name=CrossEntropyLoss"],
        ["config.LOSS.CrossEntropyLoss: found ignore_index, smooth; allowed: parameters that it takes (TypeError:"],
    ),
    "a parameter that the head does not take": (
        ["config.MODEL.HEAD.PARAMS=[[mlp,{dim:[2048,4]}]]"],
        ["config.MODEL.HEAD.PARAMS: mlp: found dim; allowed: parameters that it takes (TypeError:"],
    ),
    "nesterov without momentum": (
        ["config.OPTIMIZER.momentum=0.0", "config.OPTIMIZER.nesterov=true"],
        ["config.OPTIMIZER.nesterov: found true with config.OPTIMIZER.momentum=0.0; allowed: false, or"],
    ),
    "a parameter that the collator does not take": (
        ["config.DATA.TRAIN.COLLATE_FUNCTION=multicrop_collator", "+config.DATA.TRAIN.COLLATE_FUNCTION_PARAMS.mix=1"],
        ["config.DATA: COLLATE_FUNCTION_PARAMS of multicrop_collator: found mix"],
    ),
    "a folder of checkpoints below a file": (
        ["config.CHECKPOINT.DIR=empty.npy/run"],
        ["config.CHECKPOINT.DIR: found empty.npy/run, and ", "empty.npy is no folder; allowed: a folder"],
    ),
    "a scaled learning rate of a schedule that VISSL cannot scale": (
        [f"{_LR}={{name:polynomial,auto_lr_scaling:{{auto_scale:true}}}}"],
        ["VISSL refuses the config: RuntimeError: Unknow param_scheduler: polynomial"],
    ),
    "a learning rate for a batch of none": (
        [f"{_LR}.auto_lr_scaling={{auto_scale:true,base_value:0.1,base_lr_batch_size:0}}"],
        ["VISSL refuses the config: ZeroDivisionError: float division by zero (in infer_learning_rate)"],
    ),
    "initial weights that do not exist": (
        ["config.MODEL.WEIGHTS_INIT.PARAMS_FILE=nowhere.torch"],
        ["config.MODEL.WEIGHTS_INIT.PARAMS_FILE: found nowhere.torch, which does not exist"],
    ),
    "more clusters than samples": (
        ["config.CLUSTERFIT.NUM_CLUSTERS=31"],
        ["config.CLUSTERFIT.NUM_CLUSTERS: found 31 for 30 samples; allowed: 1 to 30"],
    ),
    "no weights": (
        ["config.CLUSTERFIT.TEACHER.WEIGHTS=''"],
        ["config.CLUSTERFIT.TEACHER.WEIGHTS: found nothing"],
    ),
    "weights that do not exist": (
        ["config.CLUSTERFIT.TEACHER.WEIGHTS=nowhere.torch"],
        ["config.CLUSTERFIT.TEACHER.WEIGHTS: found nowhere.torch, which does not exist"],
    ),
    "a layer that does not exist": (
        ["config.CLUSTERFIT.FEATURES.LAYER_NAME=res6"],
        ["FEATURES.LAYER_NAME: found 'res6'", "conv1", "res5", "flatten", "heads"],
    ),
    "no head": (
        ["config.MODEL.HEAD.PARAMS=[]"],
        ["config.MODEL.HEAD.PARAMS: found []; allowed: one head or more for a training"],
    ),
    "a head for another trunk": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_head,{num_clusters:4,in_features:7}]]"],
        ["config.MODEL.HEAD.PARAMS: in_features of clusterfit_head: found 7; allowed: 2048, the width of the trunk"],
    ),
    "a second head": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_head,{num_clusters:4}],[clusterfit_head,{num_clusters:4}]]"],
        ["config.MODEL.HEAD.PARAMS[1]: found clusterfit_head behind clusterfit_head; allowed: clusterfit_head as"],
    ),
    "a trunk of no width": (
        ["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=0"],
        ["config.MODEL.HEAD.PARAMS: found clusterfit_head without in_features for the trunk resnet"],
    ),
    "no trunk": (["config.MODEL.TRUNK=null"], ["config.MODEL.TRUNK: found None; allowed: a value of type dict"]),
    "a weight decay without end": (
        ["config.OPTIMIZER.weight_decay=inf"],
        ["config.OPTIMIZER.weight_decay: found inf; allowed: at least 0 and at most"],
    ),
    "a learning rate that becomes negative": (
        [f"{_LR}={{name:cosine,start_value:0.1,end_value:-5}}"],
        [f"{_LR}: found cosine", "end_value=-5, which is -", "% of the training; allowed: a schedule of numbers of at"],
    ),
    "a place to meet that is none": (
        ["config.DISTRIBUTED.RUN_ID=5"],
        ["config.DISTRIBUTED.RUN_ID: found 5; allowed: <host>:<port>"],
    ),
    "a folder of checkpoints with too long a name": (
        [f"config.CHECKPOINT.DIR={'x' * 300}"],
        ["config.CHECKPOINT.DIR: found 'xxx", "(File name too long); allowed: a folder"],
    ),
    "first places in words": (
        ["config.METERS.accuracy_list_meter.topk_values=[a]"],
        ["config.METERS.accuracy_list_meter.topk_values: found ['a']; allowed: whole numbers of at least 1"],
    ),
    "more first places than clusters": (
        ["config.METERS.accuracy_list_meter.topk_values=[1,5]"],
        ["config.METERS.accuracy_list_meter.topk_values: found [1, 5]; allowed: 1 to 4, as there are clusters"],
    ),
    "a head of another width": (
        ["config.MODEL.HEAD.PARAMS=[[mlp,{dims:[2048,7]}]]"],
        ["config.MODEL.HEAD.PARAMS: found a head of width 7; allowed: 4"],
    ),
    "an empty folder": (
        ["config.DATA.TRAIN.DATA_PATHS=[empty]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Couldn't find any class folder in empty"],
    ),
    "an empty list of files": (
        ["config.DATA.TRAIN.DATA_PATHS=[empty.npy]", "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]"],
        ["config.DATA.TRAIN: found an empty data set; allowed: one sample or more"],
    ),
    "no such folder": (
        ["config.DATA.TRAIN.DATA_PATHS=[missing]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Directory missing does not exist"],
    ),
    "one of several label files that is none": (
        ["config.DATA.TRAIN.LABEL_PATHS=[[a.npy,5]]"],
        ["config.DATA.TRAIN.LABEL_PATHS[0]: found 5; allowed: a value of type str"],
    ),
    "a list that runs code": (
        ["config.DATA.TRAIN.DATA_PATHS=[trap.pkl]", "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]"],
        ["config.DATA.TRAIN.DATA_PATHS: found trap.pkl cannot be read", "it asks for posix.mkdir"],
    ),
    "data of torchvision by a name that it does not have": (
        ["config.DATA.TRAIN.DATA_SOURCES=[torchvision_dataset]"],
        [
            "config.DATA.TRAIN: the data set cannot be opened: torchvision_dataset reads CIFAR10, CIFAR100,",
            "not 'tiny'",
        ],
    ),
    "data of torchvision that are not there": (
        ["config.DATA.TRAIN.DATA_SOURCES=[torchvision_dataset]", "config.DATA.TRAIN.DATASET_NAMES=[CIFAR10]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Dataset not found or corrupted"],
    ),
    "a data source whose library is not public": (
        ["config.DATA.TRAIN.DATA_SOURCES=[airstore]"],
        ["config.DATA.TRAIN: the data set cannot be opened: No module named 'airstore'"],
    ),
    "no data": (
        ["config.DATA.TRAIN.DATA_PATHS=[]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Dataset 'tiny' is not registered", "DATA_PATHS"],
    ),
}


@pytest.mark.parametrize("overrides, fragments", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_gets_one_message(refuse, tmp_path, overrides, fragments):
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "empty.npy", np.array([], dtype=str))
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap()))
    require_refusal(refuse(*overrides), *fragments)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("name", "by_link", "num_processes"),
    [
        ("model_phase0.torch", False, 1),
        ("checkpoint.torch", True, 1),
        pytest.param("model_phase0.torch", False, 2, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_that_runs_code_is_refused(
    student_run, run_command, student_overrides, tmp_path, name, by_link, num_processes
):
    folder = tmp_path / "run"
    shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
    torch.save({"classy_state_dict": Trap()}, folder / name)
    overrides = (
        f"config.CHECKPOINT.DIR={folder}",
        f"config.CHECKPOINT.USE_SYMLINK_CHECKPOINT_FOR_RESUME={by_link}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
    )
    result = run_command(*student_overrides, *overrides, cwd=tmp_path)
    require_refusal(result, f"{folder / name} runs code when it is opened", "posix.mkdir")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("tag", "fragment"),
    [
        ("!!python/object/apply:os.mkdir [trapped]", "could not determine a constructor for the tag"),
        ("!!python/name:os.system", "could not determine a constructor for the tag"),
        ("!!python/object/apply:pathlib.PosixPath [x]", "config.CHECKPOINT.DIR: found PosixPath('x'), made by a tag"),
        ("!!binary YWJj", "config.CHECKPOINT.DIR: found b'abc', made by a tag"),
    ],
)
def test_a_config_with_tags_gets_one_message(run_command, tmp_path, tag, fragment):
    (tmp_path / "configs/config").mkdir(parents=True)
    defaults = "defaults:\n  - /config/test/cpu_test/test_cpu_resnet_simclr\n  - _self_\n"
    text = f"# @package _global_\n{defaults}config:\n  CHECKPOINT:\n    DIR: {tag}\n"
    (tmp_path / "configs/config/mine.yaml").write_text(text)
    require_refusal(run_command("config=mine", cwd=tmp_path), fragment)
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


@pytest.mark.parametrize(
    "command, fragment",
    [
        ([], "The command: found no config; allowed: config=<name>"),
        (
            ["config=clusterfit/study/own_teacher", "study.folder=s"],
            "study.pretrain, study.train, study.validation, study.test, study.teacher: found nothing (???)",
        ),
        (
            [
                "config=clusterfit/study/label_noise",
                "study.folder=s",
                "config.STUDY.METHODS.teacher, twice as long.EPOCHS=3",
            ],
            '"config.STUDY.METHODS={teacher\\, twice as long:{EPOCHS:3}}"',
        ),
        (["config=clusterfit/no_such_config"], "config=clusterfit/no_such_config: found no such config"),
        (
            ["config=clusterfit/student", "+config/clusterfit=no_such"],
            "+config/clusterfit=no_such: found no such config",
        ),
    ],
)
def test_a_command_without_a_config_gets_one_message(run_command, tmp_path, command, fragment):
    require_refusal(run_command(*command, cwd=tmp_path), fragment)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_config_gets_one_message(run_command, tmp_path):
    (tmp_path / "configs/config").mkdir(parents=True)
    (tmp_path / "configs/config/mine.yaml").write_text("config:\n  SEED_VALUE: 1\n  SEED_VALUE: 2\n")
    require_refusal(
        run_command("config=mine", cwd=tmp_path), "The config cannot be composed:", "SEED_VALUE", "mine.yaml"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_is_asked_for_where_there_is_none(refuse, tmp_path):
    result = refuse("config.MACHINE.DEVICE=gpu")
    require_refusal(result, "config.MACHINE.DEVICE: found gpu, and PyTorch sees none; allowed: cpu")
    assert not (tmp_path / "run").exists()


def trunk_of(checkpoint):
    return checkpoint["classy_state_dict"]["base_model"]["model"]["trunk"]


def other_network(path, _teacher):
    torch.save({"features.0.weight": torch.ones(8, 3, 3, 3)}, path)
    return f"{path} holds no tensor of the trunk"


def part_of_the_network(path, teacher):
    state = trunk_of(torch.load(teacher))
    torch.save({name: tensor for name, tensor in state.items() if "layer4" not in name}, path)
    return f"{path} fits the trunk only in part"


def text(path, _teacher):
    path.write_text("weights")
    return f"{path} is no checkpoint"


@pytest.mark.parametrize("make", [other_network, part_of_the_network, text])
def test_weights_of_no_use(refuse, tmp_path, teacher, make):
    path = tmp_path / "weights.torch"
    fragment = make(path, teacher)
    require_refusal(refuse(f"config.CLUSTERFIT.TEACHER.WEIGHTS={path}"), fragment)


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_teacher_that_gives_nan(refuse, tmp_path, teacher, num_processes):
    """With several processes each meets it, and still there is one message."""
    checkpoint = torch.load(teacher)
    trunk_of(checkpoint)["_feature_blocks.conv1.weight"].fill_(np.nan)
    torch.save(checkpoint, tmp_path / "nan.torch")
    result = refuse(
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={tmp_path / 'nan.torch'}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
    )
    require_refusal(result, "The teacher gave NaN or infinite features for 8 of the samples")
    assert result.stderr.count("The teacher gave NaN") == 1


@pytest.fixture
def refuse_second(tmp_path, student_run, run_command, student_overrides):
    """Trains on the artefacts of an earlier run with something changed; they must stay as they are."""

    def run(*change: str):
        folder = tmp_path / "run"
        shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
        before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", *change, cwd=tmp_path)
        after = {file: file.read_bytes() for file in (folder / "clusterfit").rglob("*") if file.is_file()}
        assert after == before
        assert {path.name for path in folder.iterdir()} <= {*BEFORE_A_STEP, "clusterfit"}
        return result

    return run


def test_labels_of_other_data_are_refused(refuse_second, tmp_path):
    images = write_images(tmp_path / "images", 31)
    require_refusal(
        refuse_second(f"config.DATA.TRAIN.DATA_PATHS=[{images}]"),
        "labels/train was made for other data: 21 of 31 samples differ (it has 30).",
        f"sample 10 is now '{images / 'class0/00030.png'}'",
    )


def test_labels_of_the_same_number_of_other_images_are_refused(refuse_second, tmp_path):
    images = write_images(tmp_path / "images", 30, seed=1)
    result = refuse_second(f"config.DATA.TRAIN.DATA_PATHS=[{images}]")
    require_refusal(result, "labels/train was made for other data:", "of 30 samples differ")


@pytest.mark.parametrize(
    "change, difference",
    [
        ("NUM_CLUSTERS=5", "codebook.settings.num_clusters: it was made with 4, this run has 5"),
        ("SEED=1", "codebook.settings.seed: it was made with 0, this run has 1"),
        ("FEATURES.POOLING=max", 'features.teacher.pooling: it was made with "avg", this run has "max"'),
    ],
)
def test_labels_of_other_settings_are_refused(refuse_second, change, difference):
    require_refusal(refuse_second(f"config.CLUSTERFIT.{change}"), difference)


def test_labels_of_another_teacher_are_refused(refuse_second, tmp_path, teacher):
    checkpoint = torch.load(teacher)
    trunk_of(checkpoint)["_feature_blocks.conv1.weight"] *= 2
    torch.save(checkpoint, tmp_path / "other.torch")
    result = refuse_second(f"config.CLUSTERFIT.TEACHER.WEIGHTS={tmp_path / 'other.torch'}")
    require_refusal(result, "features.teacher.weights_sha256: it was made with")
