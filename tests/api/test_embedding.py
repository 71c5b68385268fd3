"""Features of images by networks of other libraries, against the libraries' own calls; stopped, shared, refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from repository import ROOT
from safetensors.torch import save_file

from vissl_clusterfit import ClusterFitError, embed
from vissl_clusterfit.commands.main import main
from vissl_clusterfit.features.store import FeatureStore

SIZE = 32


def write_pictures(folder: Path, number: int) -> list[Path]:
    rng = np.random.default_rng(number)
    paths = [folder / ("b lue" if index % 2 else "ä") / f"{index:03d}.png" for index in range(number)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(path)
    return sorted(paths, key=lambda path: str(path.relative_to(folder)))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", 20)
    torch.manual_seed(3)
    torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
    return tmp_path


def test_features_are_those_of_the_library(here):
    features = embed("pictures", "torchvision:resnet18", "run", weights="resnet18.pth", size=SIZE, batch_size=6)
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load("resnet18.pth"))
    network.fc = torch.nn.Identity()
    own = torchvision.models.ResNet18_Weights.DEFAULT.transforms(crop_size=SIZE, resize_size=SIZE)
    with torch.inference_mode():
        expected = torch.cat(
            [network.eval()(own(Image.open(here / "pictures" / name))[None]) for name in features.names]
        )
    np.testing.assert_allclose(features.read(0, 20), expected, atol=1e-5, rtol=0)
    assert features.names == sorted(str(path.relative_to(here / "pictures")) for path in here.glob("pictures/*/*"))
    assert features.inputs["teacher"]["layer"] == ""


def test_a_layer_a_pooling_and_arguments_of_the_constructor(here):
    torch.manual_seed(4)
    network = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=0).eval()
    save_file(network.state_dict(), "vit.safetensors")
    features = embed(
        "pictures",
        "timm:vit_tiny_patch16_224",
        "run",
        weights="vit.safetensors",
        size=SIZE,
        arguments={"img_size": SIZE},
        pooling="patch_mean",
    )
    assert [step["size"] for step in features.inputs["transforms"] if "size" in step] == [SIZE, SIZE]
    own = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(SIZE, torchvision.transforms.InterpolationMode.BICUBIC),
            torchvision.transforms.CenterCrop(SIZE),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(0.5, 0.5),
        ]
    )
    with torch.inference_mode():
        images = torch.stack([own(Image.open(here / "pictures" / name)) for name in features.names])
        expected = network.forward_features(images)[:, 1:].mean(dim=1)
    np.testing.assert_allclose(features.read(0, 20), expected, atol=1e-5, rtol=0)


def test_processes_that_read_change_nothing(here):
    alone = embed("pictures", "torchvision:resnet18", "alone", weights="resnet18.pth", size=SIZE, batch_size=3)
    shared = embed(
        "pictures", "torchvision:resnet18", "shared", weights="resnet18.pth", size=SIZE, batch_size=3, num_workers=2
    )
    assert shared.content_hash == alone.content_hash


def test_a_killed_one_resumes_and_has_the_same_bytes(here):
    write_pictures(here / "pictures", 300)
    words = ("embed", "pictures", "torchvision:resnet18")
    options = ("--weights", "resnet18.pth", "--size", "64", "--batch-size", "4", "--num-workers", "1")
    started = subprocess.Popen(
        [sys.executable, "-m", "vissl_clusterfit.commands.main", *words, "killed", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    while not (done := list(here.glob("killed/rows-*.json"))) and started.poll() is None:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    before = {file: file.stat().st_mtime_ns for file in done}
    assert main([*words, "killed", *options]) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == before
    assert main([*words, "whole", *options]) == 0
    killed, whole = (FeatureStore.open(here / name) for name in ("killed", "whole"))
    assert killed.content_hash == whole.content_hash
    np.testing.assert_array_equal(killed.read(0, 300), whole.read(0, 300))


def test_a_random_start_is_always_the_same_and_said(here, caplog):
    first = embed("pictures", "torchvision:resnet18", "first", size=SIZE)
    assert "torchvision:resnet18 has a random start: no weights were given." in caplog.text
    torch.manual_seed(5)
    assert embed("pictures", "torchvision:resnet18", "second", size=SIZE).content_hash == first.content_hash
    caplog.clear()
    embed("pictures", "torchvision:resnet18", "third", weights="resnet18.pth", size=SIZE)
    assert "random start" not in caplog.text


def test_an_image_that_cannot_be_read_is_left_out(here, caplog):
    (here / "pictures/ä/000.png").write_bytes(b"no image")
    features = embed("pictures", "torchvision:resnet18", "run", size=SIZE)
    assert [features.names[index] for index in features.unreadable] == ["ä/000.png"]
    assert "1 of 20 samples could not be read" in caplog.text
    with pytest.raises(ClusterFitError, match=r"^max_unreadable: found 1 of 20 samples unreadable"):
        embed("pictures", "torchvision:resnet18", "other", size=SIZE, max_unreadable=0.01)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": ""}, "weights_sha256"),
        ({"layer": "layer3"}, "layer"),
        ({"batch_size": 5}, "batch_size"),
        ({"size": 40}, "transforms"),
        ({"model": "torchvision:resnet34", "weights": ""}, "network"),
    ],
)
def test_features_of_another_network_are_refused(here, changed, said):
    given = {"images": "pictures", "model": "torchvision:resnet18", "weights": "resnet18.pth", "size": SIZE}
    first = embed(folder="run", **given)
    with pytest.raises(ClusterFitError, match=said):
        embed(folder="run", **{**given, **changed})
    assert embed(folder="run", **given).content_hash == first.content_hash


def test_features_of_other_images_are_refused(here):
    embed("pictures", "torchvision:resnet18", "run", size=SIZE)
    (here / "pictures/ä/000.png").rename(here / "pictures/ä/new.png")
    with pytest.raises(ClusterFitError, match=r"was made for other data: .* of 20 samples differ"):
        embed("pictures", "torchvision:resnet18", "run", size=SIZE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pictures", "torchvision:resnet19", "run"), "resnet18"),
        (("pictures", "resnet18", "run"), "torchvision:"),
        (("nowhere", "torchvision:resnet18", "run"), "The images: found nowhere, which is not there"),
        (("pictures", "torchvision:resnet18", "run", "--weights", "no.pth"), "no.pth"),
        (("pictures", "torchvision:resnet34", "run", "--weights", "resnet18.pth"), "resnet18.pth"),
        (("pictures", "torchvision:resnet18", "run", "--layer", "layer9"), "layer4"),
        (("pictures", "torchvision:resnet18", "run", "--pooling", "mean"), "--pooling: found 'mean'; allowed: 'avg'"),
        (
            ("pictures", "torchvision:resnet18", "run", "--batch-size", "0"),
            "--batch-size: found 0; allowed: at least 1",
        ),
        (("pictures", "torchvision:resnet18", "run", "--size", "0"), "--size: found 0 for transforms"),
        (("pictures", "torchvision:resnet18", "run", "--argument", "size"), "--argument: found 'size'; allowed: NAME="),
        (("pictures", "torchvision:resnet18", "run", "--device", "cuda"), "--device: found cuda"),
        (
            ("pictures", "torchvision:resnet18", "run", "--num-workers", "-1"),
            "--num-workers: found -1; allowed: auto, or 0 or more",
        ),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(here, capsys, words, said):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = sorted(here.rglob("*"))
    assert main(["embed", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")
    assert said in err
    assert sorted(here.rglob("*")) == before


def test_four_commands_from_images_to_named_labels_without_vissl(here):
    code = (
        "import sys; from vissl_clusterfit.commands.main import main\n"
        "for words in (\n"
        f"    'embed pictures torchvision:resnet18 run/features --weights resnet18.pth --size {SIZE}',\n"
        "    'cluster run/features run/codebook --num-clusters 5',\n"
        "    'label run/features run/codebook run/labels',\n"
        "    'export labels run/labels labels.csv',\n"
        "):\n"
        "    assert main(words.split()) == 0\n"
        "print({'vissl', 'classy_vision', 'hydra', 'submitit'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    lines = (here / "labels.csv").read_text("utf-8").splitlines()
    assert lines[0] == "name,label,distance,margin"
    assert [line.split(",")[0] for line in lines[1:]] == FeatureStore.open(here / "run/features").names
