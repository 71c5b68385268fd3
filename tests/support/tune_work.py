"""Tunings as tests run them: VISSL's linear evaluation and a fine-tuning, of few and small images."""

from benchmark_data import ON_THIS_MACHINE, POOLED_LAYERS, SMALL_IMAGES, linear_heads

_VISSLS_LINEAR = "benchmark/linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear"
NUM_TRAIN, NUM_TEST, NUM_CLASSES = 24, 12, 3
_SMALL = (
    *ON_THIS_MACHINE,
    *SMALL_IMAGES,
    "config.MULTI_PROCESSING_METHOD=fork",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=6",
    "config.DATA.TEST.BATCHSIZE_PER_REPLICA=5",
)
#: Two linear heads on the frozen layers of a tiny network, by VISSL's own config.
LINEAR = (
    f"config={_VISSLS_LINEAR}",
    "engine_name=clusterfit_tune",
    *_SMALL,
    "config.OPTIMIZER.num_epochs=4",
    "config.OPTIMIZER.param_schedulers.lr.milestones=[1,2,3]",
    "config.OPTIMIZER.param_schedulers.lr.auto_lr_scaling.base_lr_batch_size=6",
    "config.METERS.accuracy_list_meter.topk_values=[1]",
    POOLED_LAYERS,
    linear_heads(NUM_CLASSES),
    "+config.TUNE.MODEL_NAME=mine",
    "+config.TUNE.DATASET_NAME=colours",
    "+config.TUNE.BENCHMARK=linear",
    "+config.TUNE.VALIDATION_SHARE=0.25",
)
FINE_TUNING = ("config=clusterfit/tune", f"tune.num_classes={NUM_CLASSES}", *_SMALL)
TWO_RATES = "config.TUNE.LEARNING_RATES=[0.1,0.2]"
