"""Stand-ins for the archives of publishers: their layouts and names of files, a few classes, small noisy images."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

#: Classes of each stand-in, and images of each class in trainval and in test.
NUM_CLASSES, NUM_TRAIN, NUM_TEST = 3, 6, 2
LABELS = {"trainval": np.repeat(range(NUM_CLASSES), NUM_TRAIN), "test": np.repeat(range(NUM_CLASSES), NUM_TEST)}
LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus")


def picture(label: int, number: int, kind: str = "JPEG") -> bytes:
    """Noise, brighter in one colour by its class."""
    pixels = np.random.default_rng([label, number]).integers(0, 120, size=(32, 32, 3), dtype=np.uint8)
    pixels[..., label % 3] += 120
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.write_bytes(tar_bytes(files, "w:gz" if path.name.endswith("gz") else "w"))


def text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def numbered() -> list[tuple[str, int, int]]:
    """Split, class and number from 1 of every image, the numbers running on from trainval to test."""
    entries = [(split, int(label)) for split, labels in LABELS.items() for label in labels]
    return [(split, label, number) for number, (split, label) in enumerate(entries, 1)]


def cifar100(folder: Path) -> None:
    files = {"meta": {"fine_label_names": ["apple", "bear", "cup"], "coarse_label_names": ["things", "animals"]}}
    for split, name in (("trainval", "train"), ("test", "test")):
        rows = []
        for number, label in enumerate(LABELS[split]):
            pixels = np.asarray(Image.open(io.BytesIO(picture(label, number, "PNG"))))
            rows.append(pixels.transpose(2, 0, 1).ravel())
        fine = LABELS[split].tolist()
        files[name] = {
            "data": np.stack(rows),
            "fine_labels": fine,
            "coarse_labels": [[0, 1, 0][label] for label in fine],
            "filenames": [f"{number}.png" for number in range(len(fine))],
            "batch_label": "one",
        }
    packed = {f"cifar-100-python/{name}": pickle.dumps(content, protocol=2) for name, content in files.items()}
    write_tar(folder / "cifar-100-python.tar.gz", packed)


def imagenet1k(folder: Path) -> None:
    # As in the kit: ids in another order than the names, and synsets above that are no class.
    wnids = {3: "n01440764", 1: "n01443537", 2: "n02119789"}
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(float(number), wnid, "a fish", 0.0) for number, wnid in sorted(wnids.items())]
    rows.append((4.0, "n00001740", "entity", 2.0))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    ids = {wnid: number for number, wnid in wnids.items()}
    names = sorted(ids)
    truth = [str(ids[names[label]]) for label in LABELS["test"]]
    kit = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": text(truth)}
    write_tar(
        folder / "ILSVRC2012_devkit_t12.tar.gz", {f"ILSVRC2012_devkit_t12/data/{name}": kit[name] for name in kit}
    )
    val = {f"ILSVRC2012_val_{i:08d}.JPEG": picture(label, i) for i, label in enumerate(LABELS["test"], 1)}
    write_tar(folder / "ILSVRC2012_img_val.tar", val)
    tars = {f"{name}.tar": tar_bytes(synset(name, label)) for label, name in enumerate(names)}
    write_tar(folder / "ILSVRC2012_img_train.tar", tars)


def synset(name: str, label: int) -> dict[str, bytes]:
    return {f"{name}_{number}.JPEG": picture(label, number) for number in range(NUM_TRAIN)}


def imagenet9k(folder: Path) -> None:
    names = ["n00005787", "n00006484", "n00007846"]
    (folder / "imagenet9k_synsets.txt").write_bytes(text(names))
    for label, name in enumerate(names):
        write_tar(folder / f"{name}.tar", synset(name, label))


def flowers102(folder: Path) -> None:
    entries = numbered()
    images = {f"jpg/image_{number:05d}.jpg": picture(label, number) for _, label, number in entries}
    write_tar(folder / "102flowers.tgz", images)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[label + 1 for _, label, _ in entries]], dtype=np.uint8)})
    train = [number for split, _, number in entries if split == "trainval"]
    test = [number for split, _, number in entries if split == "test"]
    splits = {"trnid": train[::2], "valid": train[1::2], "tstid": test}
    savemat(folder / "setid.mat", {name: np.array([ids], dtype=np.uint16) for name, ids in splits.items()})


def food101(folder: Path) -> None:
    classes = ["apple_pie", "baby_back_ribs", "baklava"]
    entries = [(split, f"{classes[label]}/{1000 + number}", label, number) for split, label, number in numbered()]
    files = {f"food-101/images/{name}.jpg": picture(label, number) for _, name, label, number in entries}
    for split, file in (("trainval", "train"), ("test", "test")):
        files[f"food-101/meta/{file}.txt"] = text([name for which, name, _, _ in entries if which == split])
    files["food-101/meta/classes.txt"] = text(classes)
    write_tar(folder / "food-101.tar.gz", files)


def cars(folder: Path) -> None:
    fields = [(name, "O") for name in ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")]
    rows = [(f"car_ims/{i:06d}.jpg", 1, 1, 30, 30, label + 1, int(split == "test")) for split, label, i in numbered()]
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"], dtype="O")
    annotations = np.array(rows, dtype=fields).reshape(1, -1)
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": names.reshape(1, -1)})
    write_tar(folder / "car_ims.tgz", {f"car_ims/{i:06d}.jpg": picture(label, i) for _, label, i in numbered()})


def inaturalist(folder: Path, year: int) -> None:
    files, lists = {}, {"trainval": ([], []), "test": ([], [])}
    for split, label, number in numbered():
        name = f"train_val{year}/Aves/{label}/{number:032x}.jpg"
        files[name] = picture(label, number)
        lists[split][0].append({"id": number, "file_name": name, "width": 32, "height": 32})
        lists[split][1].append({"id": number, "image_id": number, "category_id": label})
    write_tar(folder / f"train_val{year}.tar.gz", files)
    hidden = [{"id": label, "name": str(label), "supercategory": "Aves"} for label in range(NUM_CLASSES)]
    for split, name in (("trainval", "train"), ("test", "val")):
        images, annotations = lists[split]
        content = {"info": {}, "images": images, "annotations": annotations, "categories": hidden}
        write_tar(folder / f"{name}{year}.json.tar.gz", {f"{name}{year}.json": json.dumps(content).encode()})


def inat2018(folder: Path, *, lacking: str = "") -> None:
    inaturalist(folder, 2018)
    species = [("Plantae", "Quercus", "robur"), ("Animalia", "Parus", "major"), ("Animalia", "Parus", "minor")]
    categories = []
    for label, (kingdom, genus, name) in enumerate(species):
        lineage = dict.fromkeys(LEVELS, f"of {kingdom}") | {"kingdom": kingdom, "genus": genus}
        lineage.pop(lacking, None)
        categories.append({"id": label, "name": f"{genus} {name}", "supercategory": "Aves", **lineage})
    packed = json.dumps(categories[::-1]).encode()
    write_tar(folder / "categories.json.tar.gz", {"categories.json": packed})


def inat2019(folder: Path) -> None:
    inaturalist(folder, 2019)


def places205(folder: Path) -> None:
    images, lists = {}, {"trainval": [], "test": []}
    for split, label, number in numbered():
        file = f"{'abc'[label]}/{('abbey', 'bar', 'castle')[label]}/gsun_{number:032x}.jpg"
        images[f"data/vision/torralba/deeplearning/images256/{file}"] = picture(label, number)
        lists[split].append(f"{file} {label}")
    write_tar(folder / "imagesPlaces205_resize.tar.gz", images)
    files = {"train_places205.csv": text(lists["trainval"]), "val_places205.csv": text(lists["test"])}
    write_tar(
        folder / "trainvalsplit_places205.tar.gz", {f"trainvalsplit_places205/{name}": files[name] for name in files}
    )


def places365(folder: Path) -> None:
    names = ["/a/airfield", "/a/airplane_cabin", "/b/bakery/shop"]
    train, val, lists = {}, {}, {"trainval": [], "test": []}
    for split, label, number in numbered():
        file = f"{names[label]}/{number:08d}.jpg" if split == "trainval" else f"Places365_val_{number:08d}.jpg"
        if split == "trainval":
            train[f"data_256_standard{file}"] = picture(label, number)
        else:
            val[f"val_256/{file}"] = picture(label, number)
        lists[split].append(f"{file} {label}")
    write_tar(folder / "train_256_places365standard.tar", train)
    write_tar(folder / "val_256.tar", val)
    files = {
        "categories_places365.txt": text([f"{name} {label}" for label, name in enumerate(names)]),
        "places365_train_standard.txt": text(lists["trainval"]),
        "places365_val.txt": text(lists["test"]),
    }
    write_tar(folder / "filelist_places365-standard.tar", files)


def voc07(folder: Path) -> None:
    classes = ["aeroplane", "bicycle", "bird"]
    for split, archive in (("trainval", "VOCtrainval_06-Nov-2007.tar"), ("test", "VOCtest_06-Nov-2007.tar")):
        entries = [(f"{number:06d}", label, number) for which, label, number in numbered() if which == split]
        names = [name for name, _, _ in entries]
        files = {f"JPEGImages/{name}.jpg": picture(label, number) for name, label, number in entries}
        files[f"ImageSets/Main/{split}.txt"] = text(names)
        files["ImageSets/Main/val.txt"] = text(names[1::2])
        for wanted, title in enumerate(classes):
            lines = [f"{name} {' 1' if label == wanted else '-1'}" for name, label, _ in entries]
            if wanted == 2:
                lines[0] = f"{names[0]}  0"
            files[f"ImageSets/Main/{title}_{split}.txt"] = text(lines)
        write_tar(folder / archive, {f"VOCdevkit/VOC2007/{name}": content for name, content in files.items()})


WRITERS = {
    writer.__name__: writer
    for writer in (
        *(cars, cifar100, flowers102, food101, imagenet1k, imagenet9k),
        *(inat2018, inat2019, places205, places365, voc07),
    )
}
