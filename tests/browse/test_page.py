"""The page as text: of runs that have not ended, of videos, of features alone, of other data, of trainings."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_store import save_store
from videos import write_video

from vissl_clusterfit import import_features, import_labels, make_codebook, make_labels
from vissl_clusterfit.clustering import fit
from vissl_clusterfit.commands.main import main
from vissl_clusterfit.features.sample_list import dataset_inputs, hash_samples
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.report.results import ResultRow, append_results

ROWS = np.random.default_rng(2).standard_normal((120, 6)).astype(np.float32)


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Reports on the folder ``run``; the text of the page, and what was printed."""
    monkeypatch.chdir(tmp_path)

    def report(*words: str) -> tuple[str, str]:
        code = main(["report", "run", *words])
        out, errors = capsys.readouterr()
        assert code == 0, errors
        return (tmp_path / out.splitlines()[-1].removeprefix("page: ")).read_text("utf-8"), out

    return report


def labelled(**options) -> None:
    features = import_features(
        ROWS, "run/features", names=[f"{number % 3}/{number}.mp4" for number in range(len(ROWS))]
    )
    make_labels(features, make_codebook(features, "run/codebook", 5, **options), "run/labels")


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_an_extraction_under_way_says_how_far_it_is_and_what_it_could_not_read(report):
    samples = hash_samples(map(str, range(50)))
    inputs = {"dataset": dataset_inputs(samples), "teacher": "any"}
    writer = FeatureStoreWriter(Path("run/features"), inputs, samples, shard_size=10, dtype="float32")
    writer.begin()
    for shard in writer.missing()[:2]:
        writer.write(shard, ROWS[shard.start : shard.stop], {shard.start: "cut <off>"})
    page, out = report()
    assert "run/features: extraction, 2 of 5 shards (40%) of 50 samples; 2 samples could not be read so far" in page
    assert "extraction, 2 of 5 shards" in out
    assert page.count("cut &lt;off&gt;") == 2
    assert "Warning: Unreadable samples" in page


def test_a_clustering_under_way_has_its_objective_and_its_clusters_so_far(report, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(fit, "remove_folder", lambda _: None)  # what a clustering leaves that is at work
        import_features(ROWS, "run/features")
        make_codebook("run/features", "run/codebook", 5, num_iter=3)
    (tmp_path / "run/codebook/manifest.json").unlink()
    page, _ = report()
    assert "run/codebook: clustering, 3 iterations of at most 3" in page
    assert 'aria-label="mean squared distance over iteration: objective from' in page
    sizes = data_of(page)["columns"][0]
    assert (sizes["key"], sum(sizes["values"])) == ("size", len(ROWS))


def test_a_labelling_under_way_says_how_far_it_is(report, tmp_path):
    labelled()
    (tmp_path / "run/labels/manifest.json").unlink()
    (tmp_path / "run/labels/progress.json").write_text('{"num_done": 70, "run": "any"}')
    page, out = report()
    assert "run/labels: labelling, 70 samples so far" in page
    assert "cannot be used" not in out


def test_damaged_features_are_warned_of_and_all_else_is_shown(report, tmp_path):
    labelled()
    (shard,) = (tmp_path / "run/features").glob("rows-*.npy")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    page, _ = report()
    assert "Warning: Damaged features." in page
    assert [column["key"] for column in data_of(page)["columns"]][:2] == ["size", "distance"]


def test_features_alone_are_names_and_figures(report):
    import_features(ROWS, "run/features")
    page, _ = report()
    assert "Features: " in page
    assert data_of(page) == {"columns": [], "neighbours": [], "num_clusters": 0}


def test_labels_from_elsewhere_have_sizes_and_samples_without_an_order(report):
    features = import_features(ROWS, "run/features", names=[f"x/{number}" for number in range(len(ROWS))])
    import_labels(np.arange(len(ROWS)) % 4, "run/labels", features, names=features.names)
    page, _ = report()
    assert [column["key"] for column in data_of(page)["columns"]] == ["size", "copies", "example"]
    assert "<h4>samples</h4>" in page
    assert "farthest" not in page


def test_a_video_is_a_strip_of_its_frames(report, tmp_path):
    labelled()
    for number in range(len(ROWS)):
        (tmp_path / f"videos/{number % 3}").mkdir(parents=True, exist_ok=True)
    write_video(tmp_path / "videos/0/0.mp4", 20)
    for number in range(1, len(ROWS)):
        (tmp_path / f"videos/{number % 3}/{number}.mp4").write_bytes((tmp_path / "videos/0/0.mp4").read_bytes())
    page, _ = report("--images", "videos")
    pictures = re.findall(r'<img src="data:image/jpeg[^>]*width="(\d+)" height="(\d+)"', page)
    assert len(pictures) >= 30
    for width, height in pictures:
        assert int(width) / int(height) == pytest.approx(4 * 96 / 64, rel=0.05)


def test_names_that_lead_out_of_the_folder_are_not_opened(report, tmp_path):
    features = import_features(ROWS, "run/features", names=[f"../secret {number}.jpg" for number in range(len(ROWS))])
    make_labels(features, make_codebook(features, "run/codebook", 5), "run/labels")
    (tmp_path / "images").mkdir()
    page, _ = report("--images", "images")
    assert "no picture: DataError: the name leads out of images" in page
    assert "<img src=" not in page.replace('<img src="data:," alt="">', "")


def test_of_several_data_sources_the_first_one_is_shown(report, tmp_path):
    """As VISSL's ``disk_folder`` names them: with sizes, and a zero byte between."""
    (tmp_path / "images").mkdir()
    for number in range(len(ROWS)):
        Image.new("RGB", (8, 8)).save(tmp_path / f"images/{number}.png")
    names = [f"{number}.png 70\0{number}.mask.png 80" for number in range(len(ROWS))]
    features = import_features(ROWS, "run/features", names=names)
    make_labels(features, make_codebook(features, "run/codebook", 5), "run/labels")
    page, _ = report("--images", "images")
    assert "no picture" not in page
    assert page.count('<img src="data:image/jpeg') > 30


def test_pictures_of_an_array_are_shown_by_their_number(report):
    import_features(ROWS, "run/features")
    make_labels("run/features", make_codebook("run/features", "run/codebook", 5), "run/labels")
    np.save("pictures.npy", np.zeros((len(ROWS), 16, 16, 3), dtype=np.uint8))
    page, _ = report("--images", "pictures.npy")
    assert page.count('<img src="data:image/jpeg') > 30
    np.save("fewer.npy", np.zeros((7, 16, 16, 3), dtype=np.uint8))
    assert main(["report", "run", "--images", "fewer.npy"]) == 2


def test_a_training_has_its_curves_and_says_where_its_images_lie(report, tmp_path):
    """The files as VISSL leaves them."""
    labelled()
    (tmp_path / "run/train_config.yaml").write_text(
        yaml.safe_dump({"DATA": {"TRAIN": {"DATA_SOURCES": ["clusterfit_disk_folder"], "DATA_PATHS": ["pictures"]}}})
    )
    (tmp_path / "pictures").mkdir()
    rows = [{"iter": number, "loss": 3.0 - number / 10, "ep": 0} for number in range(5)]
    half_a_line = '{"iter": 5, "loss": Infinity}\n{"iter": 6, "lo'
    (tmp_path / "run/stdout.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + half_a_line)
    meters = [{"top_1": {"clusters": 10.0 + phase}} for phase in range(3)]
    (tmp_path / "run/metrics.json").write_text(
        "".join(
            json.dumps({"phase_idx": phase, "train_phase_idx": phase, "train_accuracy_list_meter": meter}) + "\n"
            for phase, meter in enumerate(meters)
        )
    )
    page, _ = report()
    assert 'aria-label="loss over iteration: loss from 3 to 2.6"' in page
    assert 'aria-label="% over epoch: train, top_1 of clusters from 10 to 12"' in page
    assert "its training is under way, or was stopped" in page
    assert "no picture: " in page  # they are looked for where the config says
    (tmp_path / "run/model_final_checkpoint_phase2.torch").touch()
    assert "its training has ended" in report()[0]


def test_the_transfer_table_is_in_the_page_and_names_in_it_are_text(report, tmp_path):
    labelled()
    row = ResultRow("<b>teacher</b>", "linear", "digits", "test", "top-1 accuracy", 0.5, "any", 0)
    append_results(tmp_path / "run", [row])
    page, _ = report()
    assert '<td>&lt;b&gt;teacher&lt;/b&gt;</td><td class="number">50.0</td>' in page
    assert "<b>teacher" not in page


def test_data_that_drift_are_warned_of(report):
    labelled()
    far = save_store(Path("other"), ROWS[:90] * np.float32(-1) + 3)
    make_labels(far, "run/codebook", "run/labels_of/other")
    np.save("true.npy", np.zeros(len(ROWS), dtype=np.int64))
    page, out = report("--true", "true.npy")  # which are not of the other data
    assert "Warning: Drift." in page
    assert re.search(r"warning: Drift\. \d+% of the samples of other are farther", out)
    assert "run/labels_of/other" in page


def test_labels_with_a_limit_say_how_many_are_beyond_it(report):
    features = import_features(ROWS, "run/features")
    make_labels(features, make_codebook(features, "run/codebook", 5), "run/labels", max_distance=0.2)
    page, _ = report()
    too_far = int((np.load("run/labels/labels.npy") < 0).sum())
    assert too_far > 12
    assert f"{too_far} of 120 samples are beyond the limit" in page


def test_true_classes_show_the_clusters_that_mix_them(report):
    labelled()
    labels = np.load("run/labels/labels.npy")
    true = labels.copy()
    worst = np.flatnonzero(labels == 2)
    true[worst[: len(worst) // 2]] = 4
    np.save("true.npy", true)
    page, _ = report("--true", "true.npy")
    section = page[page.index("True classes</h2>") :]
    rows = re.findall(r'<tr><td class="number"><button[^>]*>(\d+)</button>', section)
    assert rows[0] == "2"
    assert re.search(r"adjusted Rand index 0\.\d{3}, purity 0\.\d{3}", section)
    purity = {column["key"]: column["values"] for column in data_of(page)["columns"]}["purity"]
    assert purity[2] == pytest.approx(100 * np.ceil(len(worst) / 2) / len(worst), rel=1e-3)
    assert [value for cluster, value in enumerate(purity) if cluster != 2] == [100.0] * 4


def test_a_clustering_that_ended_too_early_is_warned_of(report):
    labelled(num_iter=2)
    assert "Warning: Not converged." in report()[0]


def test_named_clusters_are_shown_first(report):
    labelled()
    page, _ = report("--clusters", "3,1")
    assert re.findall(r'<article class="cluster" id="cluster-(\d+)"', page)[:2] == ["3", "1"]


def test_the_same_run_gives_the_same_page(report):
    labelled()
    assert report()[0] == report()[0]


def test_the_page_allows_nothing_from_elsewhere(report):
    labelled()
    page, _ = report()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page) == []
    assert " style=" not in page


def test_an_other_run_of_other_samples_is_refused(report, capsys):
    labelled()
    other = save_store(Path("elsewhere/features"), ROWS)
    make_labels(other, "run/codebook", "elsewhere/labels")
    assert main(["report", "run", "elsewhere"]) == 2
    assert "are labels of different data" in capsys.readouterr().err
