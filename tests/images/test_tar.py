"""Tar shards: read by position, in any order and process, indexed once, refused where they are damaged."""

import gzip
import io
import json
import multiprocessing
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, numbers_in, turned

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.images import open_images, tar_index


def write_tar(path: Path, files, *, form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of files by name, or of ``TarInfo`` objects that are links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes) -> tuple[str, tarfile.TarInfo]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return name, member


def shards(folder: Path, num_shards: int = 3, each: int = 4) -> Path:
    """Shards as WebDataset writes them, with a class and a description for each sample."""
    for shard in range(num_shards):
        numbers = range(shard * each, (shard + 1) * each)
        files = []
        for number in numbers:
            key = f"{number:06d}"
            files += [(f"{key}.cls", str(number % 3).encode()), (f"{key}.json", json.dumps({"n": number}).encode())]
            files += [(f"{key}.png", encoded(number))]
        write_tar(folder / f"shard-{shard:04d}.tar", files)
    return folder


def read_some(images, indices, answers):
    answers.put([numbers_in(images)[index] for index in indices])


@pytest.mark.parametrize(
    "place", ["", "shard-{0000..0002}.tar", "shard-*.tar", "shard-000{0,1,2}.tar", "s*-000[0-2].tar"]
)
def test_shards_are_read_in_their_order(tmp_path, place):
    images = open_images(shards(tmp_path / "my shards") / place)
    assert numbers_in(images) == list(range(12))
    assert images.names[5] == "shard-0001.tar/000005.png"
    assert images.labels.tolist() == [number % 3 for number in range(12)]


def test_one_tar_has_the_names_that_it_has_among_others(tmp_path):
    shards(tmp_path)
    images = open_images(tmp_path / "shard-0001.tar")
    assert list(images.names) == list(open_images(tmp_path).names)[4:8]


def test_samples_are_read_in_any_order(tmp_path):
    images = open_images(shards(tmp_path))
    order = np.random.default_rng(0).permutation(12)
    assert [round(np.asarray(images.read(int(index)))[-1, -1, 0] / 10) for index in order] == order.tolist()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_files_of_their_own(tmp_path, method):
    images = open_images(shards(tmp_path))
    images.read(0)  # with files that are open here
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    indices = [list(range(12)), [11, 0, 5]]
    readers = [context.Process(target=read_some, args=(images, each, answers)) for each in indices]
    for reader in readers:
        reader.start()
    assert sorted(answers.get(timeout=120) for _ in readers) == sorted(indices)
    for reader in readers:
        reader.join()


def test_only_so_many_files_are_open(tmp_path):
    shards(tmp_path, num_shards=50, each=1)
    images = open_images(tmp_path)
    assert numbers_in(images)[:20] == list(range(20))
    open_now = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert 0 < sum(path.startswith(str(tmp_path)) for path in open_now) <= 32


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_kind_stay(tmp_path, form):
    names = ["./a b/höhle 洞穴.png", "deep/" * 15 + "er/" * 15 + "x.png", "v1.2 final.PNG"]
    path = write_tar(tmp_path / "all.tar", [(name, encoded(number)) for number, name in enumerate(names)], form=form)
    images = open_images(path)
    assert list(images.names) == [f"all.tar/{name.removeprefix('./')}" for name in names]
    assert numbers_in(images) == [0, 1, 2]


def test_links_in_a_tar_are_what_they_lead_to(tmp_path):
    files = [
        ("a/1.png", encoded(1)),
        link("b/2.png", "../a/1.png", tarfile.SYMTYPE),
        link("b/3.png", "a/1.png", tarfile.LNKTYPE),
        link("b/4.png", "2.png", tarfile.SYMTYPE),
        link("b/out.png", "/etc/passwd.png", tarfile.SYMTYPE),
        link("b/self.png", "self.png", tarfile.SYMTYPE),
    ]
    images = open_images(write_tar(tmp_path / "a.tar", files))
    assert [numbers_in_one(images, index) for index in range(4)] == [1, 1, 1, 1]
    for index in (4, 5):
        with pytest.raises(FileNotFoundError, match="leads to no file of this tar"):
            images.read(index)


def numbers_in_one(images, index: int) -> int:
    return round(np.asarray(images.read(index))[-1, -1, 0] / 10)


def test_a_tar_that_was_written_by_the_program_tar(tmp_path):
    import subprocess

    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.png").write_bytes(encoded(number))
    (tmp_path / "in/twin.png").hardlink_to(tmp_path / "in/2.png")
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "all.tar", "."], cwd=tmp_path / "in", check=True)
    images = open_images(tmp_path / "all.tar")
    assert dict(zip(images.names, numbers_in(images), strict=True)) == {
        "all.tar/0.png": 0,
        "all.tar/1.png": 1,
        "all.tar/2.png": 2,
        "all.tar/twin.png": 2,
    }


def test_the_index_is_made_once_and_again_for_another_file(tmp_path, monkeypatch):
    shards(tmp_path)
    first = open_images(tmp_path)
    made = []
    real = tar_index._made_index
    monkeypatch.setattr(tar_index, "_made_index", lambda *given: made.append(given[0]) or real(*given))
    second = open_images(tmp_path)
    assert made == []
    assert list(first.identities()) == list(second.identities())
    write_tar(tmp_path / "shard-0001.tar", [("new.png", encoded(9)), ("newer.png", encoded(8))])
    assert numbers_in(open_images(tmp_path)) == [0, 1, 2, 3, 9, 8, 8, 9, 10, 11]
    assert made == [str(tmp_path / "shard-0001.tar")]
    assert open_images(tmp_path).labels is None  # some have none now


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', "half"])
def test_a_damaged_index_is_made_again(tmp_path, damage):
    shards(tmp_path, num_shards=1)
    before = list(open_images(tmp_path).identities())
    index = tmp_path / ".shard-0000.tar.index.json"
    whole = index.read_bytes()
    index.write_bytes(whole.replace(b'"offsets": [', b'"offsets": ["x", ') if damage == "half" else damage)
    assert list(open_images(tmp_path).identities()) == before
    assert index.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    from vissl_clusterfit.errors import ArtifactError

    def refuse(*_, **__):
        raise ArtifactError("read-only")

    monkeypatch.setattr(tar_index, "write_file", refuse)
    assert numbers_in(open_images(shards(tmp_path))) == list(range(12))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_shard_that_changes_while_it_is_read_gives_no_other_images(tmp_path):
    images = open_images(shards(tmp_path))
    write_tar(tmp_path / "shard-0001.tar", [(f"{number}.png", encoded(20)) for number in range(4)])
    assert numbers_in_one(images, 0) == 0
    with pytest.raises(OSError, match=r"shard-0001\.tar was changed"):
        images.read(4)


def test_exif_is_honoured_and_counted(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.jpg", turned(1, 6)), ("2.jpg", turned(2, 1))])
    assert open_images(path).read(0).size == (10, 20)
    as_stored = pickle.loads(pickle.dumps(open_images(path, exif=False)))
    assert as_stored.read(0).size == as_stored.read(1).size == (20, 10)
    assert as_stored.num_ignored_orientations == 1


def test_two_files_of_the_same_name_are_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.png", encoded(1)), ("y.png", encoded(2)), ("./x.png", encoded(3))])
    with pytest.raises(DataError, match=r"a\.tar: found two files of the same name: 'x\.png'"):
        open_images(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_the_same_name_in_two_shards_is_two_samples(tmp_path):
    for shard in ("a", "b"):
        write_tar(tmp_path / f"{shard}.tar", [("x.png", encoded(1))])
    assert list(open_images(tmp_path).names) == ["a.tar/x.png", "b.tar/x.png"]


def test_a_missing_shard_is_refused(tmp_path):
    shards(tmp_path)
    with pytest.raises(DataError, match=r"found 7 of 10 files missing: '.*shard-0003.tar'.*, …"):
        open_images(tmp_path / "shard-{0000..0009}.tar")
    with pytest.raises(DataError, match="found no file; allowed: a pattern"):
        open_images(tmp_path / "x*.tar")
    with pytest.raises(DataError, match=r"found \{0009\.\.0000\}"):
        open_images(tmp_path / "shard-{0009..0000}.tar")


def test_a_compressed_tar_is_refused_with_the_command_that_unpacks_it(tmp_path):
    shards(tmp_path, num_shards=1)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress((tmp_path / "shard-0000.tar").read_bytes()))
    with pytest.raises(DataError, match=r"found a compressed file \(gzip\).* gunzip .*a\.tar\.gz"):
        open_images(path)


@pytest.mark.parametrize("damage", ["cut", "header", "text", "empty", "class"])
def test_damaged_tars_are_refused(tmp_path, damage):
    shards(tmp_path, num_shards=1)
    path = tmp_path / "shard-0000.tar"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:4000]
    elif damage == "header":
        content[3 * 1024 + 100] ^= 0xFF
    path.write_bytes({"text": b"no tar" * 200, "empty": b""}.get(damage, content))
    if damage == "class":
        write_tar(path, [("a.png", encoded(1)), ("a.cls", b"cat")])
    with pytest.raises(DataError, match=r"shard-0000\.tar") as error:
        open_images(path)
    assert "\n" not in str(error.value)


def test_a_tar_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.tar without any image"):
        open_images(write_tar(tmp_path / "a.tar", [("a.txt", b"hello")]))
