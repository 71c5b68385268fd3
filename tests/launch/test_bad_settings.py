"""Values that a setting cannot have: one message, exit code 2, and nothing on disk that looks done."""

import pytest
import torch
from refusals import require_refusal

_LR = "config.OPTIMIZER.param_schedulers.lr"
#: What is wrong, and what the message says.
MISTAKES = {
    "two bad values": (
        ["config.CLUSTERFIT.NUM_CLUSTERS=0", "config.CLUSTERFIT.METRIC=l1"],
        ["NUM_CLUSTERS: found 0; allowed: at least 1", "METRIC: found 'l1'; allowed: 'l2' | 'cosine'"],
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
    "nothing where a number must be": (
        ["config.LOG_FREQUENCY=null"],
        ["config.LOG_FREQUENCY: found None; allowed: a value of type int"],
    ),
    "nesterov without momentum": (
        ["config.OPTIMIZER.momentum=0.0", "config.OPTIMIZER.nesterov=true"],
        ["config.OPTIMIZER.nesterov: found true with config.OPTIMIZER.momentum=0.0; allowed: false, or"],
    ),
    "a scaled learning rate of a schedule that VISSL cannot scale": (
        [f"{_LR}={{name:polynomial,auto_lr_scaling:{{auto_scale:true}}}}"],
        ["VISSL refuses the config: RuntimeError: Unknow param_scheduler: polynomial"],
    ),
    "a learning rate for a batch of none": (
        [f"{_LR}.auto_lr_scaling={{auto_scale:true,base_value:0.1,base_lr_batch_size:0}}"],
        ["VISSL refuses the config: ZeroDivisionError: float division by zero (in infer_learning_rate)"],
    ),
    "more clusters than samples": (
        ["config.CLUSTERFIT.NUM_CLUSTERS=31"],
        ["config.CLUSTERFIT.NUM_CLUSTERS: found 31 for 30 samples; allowed: 1 to 30"],
    ),
    "a weight decay without end": (
        ["config.OPTIMIZER.weight_decay=inf"],
        ["config.OPTIMIZER.weight_decay: found inf; allowed: at least 0 and at most"],
    ),
    "a learning rate that becomes negative": (
        [f"{_LR}={{name:cosine,start_value:0.1,end_value:-5}}"],
        [f"{_LR}: found cosine", "end_value=-5, which is -", "% of the training; allowed: a schedule of numbers of at"],
    ),
    "a rendezvous that is none": (
        ["config.DISTRIBUTED.RUN_ID=5"],
        ["config.DISTRIBUTED.RUN_ID: found 5; allowed: <host>:<port>"],
    ),
    "first places in words": (
        ["config.METERS.accuracy_list_meter.topk_values=[a]"],
        ["config.METERS.accuracy_list_meter.topk_values: found ['a']; allowed: whole numbers of at least 1"],
    ),
    "more first places than clusters": (
        ["config.METERS.accuracy_list_meter.topk_values=[1,5]"],
        ["config.METERS.accuracy_list_meter.topk_values: found [1, 5]; allowed: 1 to 4, as there are clusters"],
    ),
}


@pytest.mark.parametrize("overrides, fragments", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_gets_one_message(refuse, overrides, fragments):
    require_refusal(refuse(*overrides), *fragments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_is_asked_for_where_there_is_none(refuse, tmp_path):
    result = refuse("config.MACHINE.DEVICE=gpu")
    require_refusal(result, "config.MACHINE.DEVICE: found gpu, and PyTorch sees none; allowed: cpu")
    assert not (tmp_path / "run").exists()
