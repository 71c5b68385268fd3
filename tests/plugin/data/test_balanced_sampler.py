"""The samples of an epoch that are drawn balanced over clusters: on any number of processes, and after a resume."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import STUDENT, write_labels

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, ConfigError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.balanced_sampler import BalancedSampler, balanced_sampling

#: 40 samples in a large cluster, 9 and 6 in others; 5 without a label.
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, -1], [40, 9, 6, 5]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_labels(folder / "labels/train", LABELS, 3)
    return folder


def sampler(run, count, group=(1, 0), batch_size=4, seed=3, epoch=0, start_iter=0):
    made = BalancedSampler(
        LABELS,
        {"BATCHSIZE_PER_REPLICA": batch_size},
        seed,
        settings=ClusterFitConfig(output_dir=str(run), balanced_samples=count),
        group=group,
    )
    made.set_epoch(epoch)
    made.set_start_iter(start_iter)
    return made


def test_clusters_give_alike_and_every_epoch_others(run):
    epochs = [list(sampler(run, 24, epoch=epoch)) for epoch in range(20)]
    for drawn in epochs:
        assert len(set(drawn)) == 24
        counts = Counter(LABELS[drawn].tolist())
        assert (counts[2], counts[0] + counts[1], abs(counts[0] - counts[1])) == (6, 18, 0)
    assert len(set(map(tuple, map(sorted, epochs)))) == 20
    assert set(itertools.chain(*epochs)) == set(np.flatnonzero(LABELS >= 0))
    assert list(sampler(run, 24, epoch=7)) == epochs[7]
    assert list(sampler(run, 24, epoch=7, seed=4)) != epochs[7]


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 55), processes=st.integers(1, 5), epoch=st.integers(0, 99), batch=st.integers(1, 6))
def test_processes_share_one_draw_and_a_resume_goes_on_in_it(run, count, processes, epoch, batch):
    alone = list(sampler(run, count, epoch=epoch))
    samplers = [sampler(run, count, (processes, rank), epoch=epoch, batch_size=batch) for rank in range(processes)]
    parts = [list(each) for each in samplers]
    assert {len(part) for part in parts} == {len(each) for each in samplers} == {-(-count // processes)}
    together = [index for step in zip(*parts, strict=True) for index in step]
    assert together[:count] == alone
    assert together[count:] == (alone * processes)[: len(together) - count]
    for rank, part in enumerate(parts):
        rest = sampler(run, count, (processes, rank), epoch=epoch, batch_size=batch, start_iter=2)
        assert list(rest) == part[2 * batch :]


def test_fewer_samples_with_a_label_than_asked_for(run):
    with pytest.raises(ConfigError, match=r"BALANCED_SAMPLES: found 56; allowed: 0 to 55, the samples with a label"):
        iter(sampler(run, 56))


def test_labels_on_two_levels_need_their_codebook(tmp_path):
    write_labels(tmp_path / "labels/train", LABELS, 3, {"codebook": {"settings": {"num_coarse_clusters": 2}}})
    with pytest.raises(ArtifactError, match="holds no codebook"):
        iter(sampler(tmp_path, 10))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("config.DATA.TRAIN.DATA_LIMIT=20", "BALANCED_SAMPLES: found 8 with DATA.TRAIN.DATA_LIMIT 20"),
        ("config.CLUSTERFIT.FEATURES.DATA_PARTITION=TEST", "BALANCED_SAMPLES: found 8 with"),
    ],
)
def test_it_is_of_the_whole_training_split(override, message):
    more = ["config.CLUSTERFIT.FEATURES.TEST_PARTITION=''", "config.CLUSTERFIT.BALANCED_SAMPLES=8"]
    with pytest.raises(ConfigError, match=message):
        compose([*STUDENT, *more, override])


def test_others_keep_vissls_sampler():
    class Supervised:
        split, data_objs = "TRAIN", ()

    assert balanced_sampling(Supervised()) is None
