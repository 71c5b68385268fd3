"""VISSL's pre-training configs on one CPU, with trunks that a step takes a second or less of."""

#: What any user with one CPU has to override.
ON_THIS_MACHINE = (
    "config.MACHINE.DEVICE=cpu",
    "config.DISTRIBUTED.NUM_NODES=1",
    "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
    "config.DISTRIBUTED.RUN_ID=auto",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
)
#: The recipe's milestones lie beyond one epoch.
ONE_EPOCH = ("config.OPTIMIZER.num_epochs=1", "config.OPTIMIZER.param_schedulers.lr.name=constant")
NARROW = "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4"
#: Of any trunk: each reads its own settings.
SMALL_TRUNK = (
    NARROW,
    *(f"config.MODEL.TRUNK.{name}.NUM_LAYERS=2" for name in ("VISION_TRANSFORMERS", "XCIT")),
    *(f"config.MODEL.TRUNK.{name}.HIDDEN_DIM=48" for name in ("VISION_TRANSFORMERS", "XCIT")),
    *(f"config.MODEL.TRUNK.{name}.NUM_HEADS=4" for name in ("VISION_TRANSFORMERS", "XCIT")),
    "config.MODEL.TRUNK.VISION_TRANSFORMERS.MLP_DIM=48",
    "config.MODEL.TRUNK.CONVIT.N_GPSA_LAYERS=1",
)
SMALL_REGNET = "config.MODEL.TRUNK.REGNET.name=regnet_y_400mf"
