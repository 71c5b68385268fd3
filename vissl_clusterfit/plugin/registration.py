"""What this package adds to VISSL, in one place."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=1)
def register() -> None:
    """Adds everything to VISSL's registries; safe to call twice. Call ``compat.apply()`` first.

    | registry | name |
    |---|---|
    | losses | ``clusterfit_loss``, ``clusterfit_distillation_loss`` |
    | heads | ``clusterfit_head``, ``clusterfit_partial_head`` |
    | meters | ``clusterfit_accuracy_meter``, in the place of VISSL's wherever the loss is ``clusterfit_loss`` |
    | trunks | ``raw_pixels``, the baseline of transfer benchmarks |
    | trunks | ``library_network``: a network of torchvision, timm, transformers or one's own, by name |
    | data sources | ``video_folder``, ``video_filelist``; ``images``: any collection of images |
    | transforms | ``Clip…``, for clips of video |
    | transforms | ``ImageProcessor``, that of a model of transformers |
    | collators | ``multi_label_collator``: several labels of a sample as soft targets |
    | collators | ``clusterfit_mix_collator``: MixUp and CutMix |
    | optimizers | ``OPTIMIZER.layer_decay``: timm's groups of parameters |
    | precision | of a training: ``CLUSTERFIT.COMPUTE``, wherever a config has that block |
    | hooks | a moving average of the weights, wherever there is ``MODEL.EMA_DECAY`` |
    | labels | a source's own under its name (videos, ``images``); a file has a row for each video, not for each clip |
    | labels | names are numbered as those of TRAIN; other types and another number of them are refused |
    | images | 16 bits of grey are read for what they show; a damaged file of a folder ends no training |
    | tests | the meters get the samples that could be read, and both numbers are in ``metrics.json`` |
    | transforms | an image that one fails on is unreadable, and named; a crop is no larger than the image |
    | trunks | ``r2plus1d_18``, ``_34``, ``r3d_18``, ``mc3_18``, ``s3d``, ``mvit_v1_b``, ``_v2_s``, ``resnext3d`` |
    | pooling | PyTorch's 3-D ones, for the layers of a linear evaluation |
    | data sources | ``tolerant_<source>`` for every VISSL source: damaged files are reported, not raised |
    | data sources | ``clusterfit_<source>`` for every VISSL source: with pseudo-labels, and ``DATA_LIMIT`` of them |
    | subsets | balanced ones leave out samples without a label |
    | batch norm | PyTorch's synchronous one trains on the CPU, too, for VISSL's XCiT |
    | LARC | VISSL's own where Apex is not installed; DeepClusterV2 trains on the CPU |
    | data loaders | the processes that read images end with the one that they read for |
    | hooks | the extract-then-cluster hook, wherever the loss is one of ours |
    | engines | ``clusterfit_extract``, ``_cluster``, ``_label``, ``_assign``, ``_transfer``, ``_video_accuracy`` |
    | engines | ``clusterfit_tune``, which stands for trainings that are started one after the other |
    | engines | ``clusterfit_nearest_neighbor``, ``_svm``, ``_low_shot_svm``, ``_retrieval``, for VISSL's benchmarks |
    | files of data and labels | are opened by one safe reader, whatever VISSL opens |
    | checkpoints | one that is damaged or runs code is reported in one message |
    | log | of the environment what matters, and no secrets; no shell for what the machine is |
    | networks | what a constructor does not take is reported in one message |
    | checkpoints | written whole, beside the training, and linked by a link that stays in the folder |
    | log | of a training: images per second, the share of time without data, and a time left that means it |
    | log | ``metrics.jsonl`` of every training; TensorBoard where groups of parameters have rates of their own |
    | weights | a trunk that ``WEIGHTS_INIT`` gives weights to in part is refused |

    Our configs are found through the Hydra plugin ``hydra_plugins/vissl_clusterfit_plugin``.
    """
    import torch
    import torchvision.datasets.folder
    import vissl.data
    import vissl.hooks
    from classy_vision.dataset.transforms import register_transform
    from classy_vision.generic import util
    from classy_vision.losses import register_loss
    from classy_vision.meters import register_meter
    from classy_vision.optim.sgd import SGD
    from classy_vision.tasks import classification_task
    from vissl.data import disk_dataset, ssl_dataset
    from vissl.data.collators import register_collator
    from vissl.data.ssl_transforms import DEFAULT_TRANSFORM_TYPES
    from vissl.engines.engine_registry import register_engine
    from vissl.hooks import log_hooks, state_update_hooks, tensorboard_hook
    from vissl.losses.deepclusterv2_loss import DeepClusterV2Loss
    from vissl.models import base_ssl_model
    from vissl.models.heads import register_model_head
    from vissl.models.trunks import (
        MODEL_TRUNKS_REGISTRY,
        feature_extractor,
        register_model_trunk,
        vision_transformer,
    )
    from vissl.trainer import train_task, trainer_main
    from vissl.utils import checkpoint

    from vissl_clusterfit.config.network_names import TRUNK_NAME
    from vissl_clusterfit.models.image_transforms import ImageProcessor
    from vissl_clusterfit.plugin.benchmarks import instance_retrieval, nearest_neighbor, readable, svm
    from vissl_clusterfit.plugin.data import (
        image_files,
        image_source,
        named_files,
        transform_steps,
        true_labels,
        video_labels,
        video_source,
        video_transforms,
    )
    from vissl_clusterfit.plugin.engines import assign, stages, transfer, tune, video_accuracy
    from vissl_clusterfit.plugin.log_bridge import keep_secrets
    from vissl_clusterfit.plugin.models import attention, head, library_network, raw_pixels, video_trunks, weights
    from vissl_clusterfit.plugin.models.constructors import network_errors
    from vissl_clusterfit.plugin.patches import (
        begin_to_read,
        built_without_apex,
        largest_rounded,
        local_on_cpu,
        require_full_trunk,
        skip_unlabelled,
        staying_on_cpu,
        with_batches,
        with_bucket_views,
        with_larc_of_vissl,
    )
    from vissl_clusterfit.plugin.refusals import with_collator_parameters, with_head_parameters, with_place
    from vissl_clusterfit.plugin.screen import keep_screen_calm
    from vissl_clusterfit.plugin.training import (
        checkpoint_thread,
        checkpoints,
        compute,
        distillation,
        divergence,
        hook,
        loss,
        meter,
        mixing,
        parameter_groups,
        progress_hook,
    )

    register_loss("clusterfit_loss")(loss.ClusterFitLoss)
    register_loss(distillation.LOSS)(distillation.DistillationLoss)
    register_model_head("clusterfit_head")(head.ClusterFitHead)
    register_model_head("clusterfit_partial_head")(head.PartialHead)
    register_meter(meter.METER)(meter.ClusterAccuracyMeter)
    register_model_trunk(raw_pixels.TRUNK_NAME)(raw_pixels.RawPixels)
    register_model_trunk(TRUNK_NAME)(library_network.LibraryNetwork)
    MODEL_TRUNKS_REGISTRY.update(video_trunks.VIDEO_TRUNKS)  # the decorator takes a class under one name only
    register_engine("clusterfit_extract")(stages.ExtractEngine)
    register_engine("clusterfit_cluster")(stages.ClusterEngine)
    register_engine("clusterfit_label")(stages.LabelEngine)
    register_engine("clusterfit_assign")(assign.AssignEngine)
    register_engine("clusterfit_transfer")(transfer.TransferEngine)
    register_engine(tune.ENGINE)(tune.TuneEngine)
    register_engine("clusterfit_video_accuracy")(video_accuracy.VideoAccuracyEngine)
    register_engine("clusterfit_nearest_neighbor")(nearest_neighbor.NearestNeighborEngine)
    register_engine("clusterfit_svm")(svm.SvmEngine)
    register_engine("clusterfit_low_shot_svm")(svm.LowShotSvmEngine)
    register_engine("clusterfit_retrieval")(instance_retrieval.RetrievalEngine)

    ours = {
        **dict.fromkeys(video_source.SOURCES, video_source.VideoSource),
        image_source.SOURCE: image_source.ImagesSource,
    }
    vissl.data.DATASET_SOURCE_MAP.update(ours)
    vissl.data.DATA_SOURCES_WITH_SUBSET_SUPPORT.update(ours)
    for name in video_transforms.OF_TORCHVISION:
        register_transform(f"Clip{name}")(video_transforms.OfTorchvision(name))
    register_transform("ImageProcessor")(ImageProcessor)
    register_transform("ClipToTensor")(video_transforms.ClipToTensor)
    for of_views in video_transforms.OF_VIEWS:
        register_transform(of_views.__name__)(of_views)
        DEFAULT_TRANSFORM_TYPES["TRANSFORMS_WITH_COPIES"].append(of_views.__name__)
    register_collator("multi_label_collator")(video_labels.multi_label_collator)
    register_collator(mixing.COLLATOR)(mixing.mix_collator)
    # Nor has it one for labels.
    dataset_class = ssl_dataset.GenericSSLDataset
    dataset_class.load_labels = true_labels.fitting(
        true_labels.of_collections(video_labels.with_video_labels(dataset_class.load_labels))
    )
    dataset_class._convert_to_numeric_ids = true_labels.numbers_of_names
    # Nor for what composes transforms.
    ssl_dataset.get_transform = transform_steps.named_steps(ssl_dataset.get_transform)
    dataset_class.__getitem__ = transform_steps.tolerant_samples(dataset_class.__getitem__)
    # Nor for the reading of image files.
    disk_dataset.Image = torchvision.datasets.folder.Image = image_files.ImageFiles()
    disk_dataset.g_pathmgr = image_files.RegularFiles()
    torchvision.datasets.folder.open = image_files.refusing_pipes(open)
    of_disk = disk_dataset.DiskImageDataset
    of_disk.__getitem__ = image_files.with_stand_ins(of_disk.__getitem__)

    pair_data_sources()

    for pooling in ("AdaptiveAvgPool3d", "AdaptiveMaxPool3d", "AvgPool3d", "MaxPool3d"):
        feature_extractor.POOL_OPS[pooling] = getattr(torch.nn, pooling)

    # VISSL has no registry for hooks; it looks this function up each time it builds the hooks of a run.
    vissl.hooks.add_loss_hooks = hook.with_clusterfit_hook(vissl.hooks.add_loss_hooks)
    # Nor for the samples that DATA_LIMIT takes.
    ssl_dataset.balanced_sub_sampling = skip_unlabelled(ssl_dataset.balanced_sub_sampling)
    # Nor for what opens files, and says what it finds.
    named_files.install()
    keep_secrets()
    keep_screen_calm()
    loader = checkpoint.CheckpointLoader
    loader.load_and_broadcast_checkpoint = weights.told_in_one_message(loader.load_and_broadcast_checkpoint)
    # Nor for the loading of weights.
    base_ssl_model.init_model_from_consolidated_weights = require_full_trunk(
        base_ssl_model.init_model_from_consolidated_weights
    )
    train_task.build_model = network_errors(train_task.build_model)
    # Nor for which parameters go together.
    groups = parameter_groups.with_layer_decay(train_task.get_optimizer_param_groups)
    train_task.get_optimizer_param_groups = groups
    # Nor for how checkpoints are written, and the link to the latest.
    checkpoint.save_checkpoint = util.save_checkpoint = checkpoints.saved_whole(util.save_checkpoint)
    checkpoint.create_file_symlink = checkpoints.linked_within_folder(checkpoint.create_file_symlink)
    writer = checkpoint.CheckpointWriter
    writer.save_consolidated_checkpoint = checkpoint_thread.saved_beside(writer.save_consolidated_checkpoint)
    trainer_main.SelfSupervisionTrainer.train = checkpoint_thread.until_written(
        trainer_main.SelfSupervisionTrainer.train
    )
    # Nor for how a training ends that diverges.
    state_update_hooks.CheckNanModelOutputHook.on_forward = divergence.end_at_output
    state_update_hooks.CheckNanLossHook.on_loss_and_meter = divergence.end_at_loss
    saves = log_hooks.LogLossMetricsCheckpointHook
    saves.on_forward = divergence.kept_unless_checked(saves.on_forward)
    # Nor for what a process does that begins to read images.
    build = functools.partial(with_batches(train_task.build_dataloader), worker_init_fn=begin_to_read)
    train_task.build_dataloader = build
    # What a part does not take is said with the block that has it.
    train_task.build_loss = with_place(train_task.build_loss, lambda block: f"config.LOSS.{block['name']}")
    train_task.build_meter = with_place(train_task.build_meter, lambda block: f"config.METERS.{block['name']}")
    train_task.build_optimizer = with_place(train_task.build_optimizer, lambda _: "config.OPTIMIZER")
    base_ssl_model.get_model_head = with_head_parameters(base_ssl_model.get_model_head)
    vissl.data.get_collator = with_collator_parameters(vissl.data.get_collator)
    # Tests score what could be read.
    task = train_task.SelfSupervisionTask
    task._build_meters = readable.over_readable_samples(task._build_meters)
    # Nor for how processes share gradients.
    classification_task.init_distributed_data_parallel_model = with_bucket_views
    # What the line of a training says.
    vissl.hooks.LogLossLrEtaHook = progress_hook.ProgressHook
    tensorboard_hook.round = largest_rounded
    task.recreate_data_iterator = progress_hook.with_watch(task.recreate_data_iterator)
    # How networks compute.
    task._build_model = compute.with_compute(task._build_model)
    task.get_classy_state = compute.with_scale(task.get_classy_state)
    of_heads = vision_transformer.Attention
    of_heads.forward = attention.fused_below_float32(of_heads.forward)
    # Apex is not needed for LARC, nor a GPU for DeepClusterV2.
    SGD.prepare = with_larc_of_vissl(SGD.prepare)
    task._build_optimizer = built_without_apex
    for step in ("init_memory", "cluster_memory"):
        setattr(DeepClusterV2Loss, step, staying_on_cpu(getattr(DeepClusterV2Loss, step)))
    # XCiT is built of these whatever the config.
    torch.nn.SyncBatchNorm.forward = local_on_cpu(torch.nn.SyncBatchNorm.forward)


def pair_data_sources() -> None:
    """Registers ``tolerant_`` and ``clusterfit_<source>`` for every source, a user's own, too; safe to call again."""
    import vissl.data

    from vissl_clusterfit.plugin.data.labelled_source import PseudoLabelledSource
    from vissl_clusterfit.plugin.data.source_names import base_source, labelled_source_name, tolerant_source_name
    from vissl_clusterfit.plugin.data.tolerant_source import TolerantSource

    for source in dict.fromkeys(map(base_source, [*vissl.data.DATASET_SOURCE_MAP])):
        vissl.data.DATASET_SOURCE_MAP[tolerant_source_name(source)] = TolerantSource
        vissl.data.DATASET_SOURCE_MAP[labelled_source_name(source)] = PseudoLabelledSource
        if source in vissl.data.DATA_SOURCES_WITH_SUBSET_SUPPORT:
            vissl.data.DATA_SOURCES_WITH_SUBSET_SUPPORT.add(labelled_source_name(source))
