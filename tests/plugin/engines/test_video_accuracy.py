"""Clip and video accuracy of trained networks, through real runs."""

import numpy as np
import pytest
import torch
from results_file import rows_in
from videos import write_video
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.launch.compose.compose import compose

NUM_VIDEOS, NUM_CLIPS, BAD = 6, 3, 4


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(folder / f"{number % 3}/{number}.mp4", 30, first=8 * number)
    (folder / "2/9.mp4").write_bytes(b"none")  # sorted last
    return folder


def overrides(how, videos, folder):
    return [
        f"config=clusterfit/video/{how}",
        "config.MACHINE.DEVICE=cpu",
        "config.DISTRIBUTED.BACKEND=gloo",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
        "config.MODEL.AMP_PARAMS.USE_AMP=false",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        "config.MODEL.TRUNK.NAME=r3d_18",
        "config.MODEL.TRUNK.VIDEO.WIDTH=8",
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=4",
        "config.DATA.TEST.DATA_SOURCES=[video_folder]",
        "config.DATA.TEST.LABEL_SOURCES=[video_folder]",
        f"config.DATA.TEST.DATA_PATHS=[{videos}]",
        f"config.DATA.TEST.CLIPS.NUM_CLIPS={NUM_CLIPS}",
        "config.DATA.TEST.TRANSFORMS=[{name:ClipResize,size:32},{name:ClipCrops,size:32,num:3},{name:ClipToTensor}]",
        "video.num_classes=3",
        "video.width=64",
        "engine_name=clusterfit_video_accuracy",
        "+config.VIDEO_ACCURACY.MAX_UNREADABLE=0.2",
        f"config.CHECKPOINT.DIR={folder}",
    ]


def probabilities_by_hand(cfg, network, videos):
    """Of each clip (NUM_VIDEOS * NUM_CLIPS, 3): no store, no engine, crop by crop."""
    from vissl_clusterfit.plugin.data.split_images import SplitImages

    images = SplitImages(cfg, "TEST", cfg.DATA.TEST.TRANSFORMS)
    rows = []
    for index in range(NUM_VIDEOS * NUM_CLIPS):
        views, _ = images[index]
        assert views.shape == (3, 3, 8, 32, 32)
        with torch.no_grad():
            rows.append(torch.stack([network(view[None])[0].softmax(dim=1)[0] for view in views]).mean(dim=0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("how", ["linear", "finetune"])
def test_accuracy_is_that_of_the_averaged_probabilities(how, videos, tmp_path, run_command):
    command = overrides(how, videos, tmp_path / "run")
    cfg = compose(command)[2]
    torch.manual_seed(0)
    network = build_model(AttrDict(cfg.MODEL), cfg.OPTIMIZER)
    with torch.no_grad():
        for head in network.heads.parameters():
            head.mul_(30)  # an untrained network is sure of nothing
    (tmp_path / "run").mkdir(exist_ok=True)
    state = {"classy_state_dict": {"base_model": network.get_classy_state()}}
    torch.save(state, tmp_path / "run/checkpoint.torch")

    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = probabilities_by_hand(cfg, network.eval(), videos)
    store = FeatureStore.open(tmp_path / "run/scores/test")
    readable = np.arange(NUM_VIDEOS * NUM_CLIPS)
    assert store.unreadable.tolist() == [18, 19, 20]
    np.testing.assert_allclose(store.take(readable), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01

    labels = np.arange(NUM_VIDEOS) // 2
    found = {row["metric"]: row for row in rows_in(tmp_path / "run")}
    assert sorted(found) == ["clip top-1 accuracy", "video top-1 accuracy"]  # there are fewer than five classes
    clip = np.mean(expected.argmax(1) == labels.repeat(NUM_CLIPS))
    video = np.mean(expected.reshape(NUM_VIDEOS, NUM_CLIPS, 3).mean(1).argmax(1) == labels)
    assert found["clip top-1 accuracy"]["value"] == pytest.approx(clip)
    assert found["video top-1 accuracy"]["value"] == pytest.approx(video)
    assert "6 of 7 videos" in found["video top-1 accuracy"]["protocol"]


def test_what_cannot_be_scored_is_refused(videos, tmp_path, run_command):
    done = run_command(*overrides("finetune", videos, tmp_path / "run"), cwd=tmp_path)
    assert done.returncode == 2
    assert "VIDEO_ACCURACY.WEIGHTS: found" in done.stderr
    done = run_command(
        *overrides("finetune", videos, tmp_path / "run"), "config.DATA.TEST.CLIPS.PER=video", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "config.DATA.TEST: found CLIPS.PER: video; allowed: a video source with CLIPS.PER: clip" in done.stderr
