"""Several processes make one codebook: the same to the byte for any number of them."""

import contextlib
import signal

import numpy as np
import pytest
import stage_work
import torch
from processes import context, exit_code, running
from stage_work import REFUSED
from threadpoolctl import threadpool_limits
from tiny_store import contents, rewrite_manifest, save_store

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.storage import artifacts

UNREADABLE = [0, 77, 500, 2999]
DISTINCT = "more clusters than distinct features"


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_by_group):
    folder = tmp_path_factory.mktemp("rows")
    few = save_store(folder / "few", rows_by_group[::100][np.arange(3000) // 7 % 30], UNREADABLE)
    usual = save_store(folder / "usual", rows_by_group, UNREADABLE, shard_size=700).folder
    return {
        kind: few.folder if kind == DISTINCT else usual
        for kind in stage_work.CLUSTERINGS | stage_work.OTHER_CLUSTERINGS
    }


@pytest.fixture(scope="module")
def codebooks(tmp_path_factory, stores):
    """What each kind of clustering gives on one process, made when it is asked for."""
    folder, made = tmp_path_factory.mktemp("alone"), {}

    def codebook(kind):
        if kind not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sources, "_CHUNK_ROWS", 256)
                stage_work.cluster(stores[kind], folder / kind, kind)
            made[kind] = contents(folder / kind)
        return made[kind]

    return codebook


@contextlib.contextmanager
def together(world_size, rendezvous, *args, work=stage_work.cluster, said=None, **options):
    """All processes of one run."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                running(
                    *([work] if said is None else [stage_work.told, work, said / f"{rank}"]),
                    *args,
                    group=(rank, world_size, rendezvous),
                    **options,
                )
            )
            for rank in range(world_size)
        ]


def exit_codes(processes):
    return [exit_code(process) for process in processes]


@pytest.mark.parametrize(
    ("kind", "world_size"),
    [(kind, 2) for kind in stage_work.CLUSTERINGS | stage_work.OTHER_CLUSTERINGS]
    + [("l2", 4), ("raw", 4), ("whitened", 3), (DISTINCT, 3), ("two levels", 4)],
)
def test_the_number_of_processes_changes_no_byte(tmp_path, stores, codebooks, kind, world_size):
    with together(world_size, tmp_path / "rendezvous", stores[kind], tmp_path / "codebook", kind) as processes:
        assert exit_codes(processes) == [0] * world_size
    assert contents(tmp_path / "codebook") == codebooks(kind)


@pytest.mark.parametrize(
    ("kind", "world_size"), [(kind, 1) for kind in stage_work.CLUSTERINGS] + [("l2", 2), ("raw", 3)]
)
def test_cards_make_the_codebook_of_a_processor(tmp_path, stores, codebooks, kind, world_size):
    """On tensors that say that they are on one, whose sums go from one process to the other."""
    work, folder = stage_work.cluster_on_a_pretended_card, tmp_path / "codebook"
    with together(world_size, tmp_path / "rendezvous", stores[kind], folder, kind, work=work) as processes:
        assert exit_codes(processes) == [0] * world_size
    assert contents(folder) == codebooks(kind)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
def test_two_cards_make_the_codebook_of_a_processor(tmp_path, stores, codebooks):
    work, folder = stage_work.cluster_on_a_card_of_its_own, tmp_path / "codebook"
    with together(2, tmp_path / "rendezvous", stores["l2"], folder, "l2", work=work) as processes:
        assert exit_codes(processes) == [0, 0]
    assert contents(folder) == codebooks("l2")


def test_whitened_features_of_an_odd_number_on_any_number_of_processes_and_threads(tmp_path, monkeypatch):
    """The last chunk of a process is of another height than on one process, where float32 products take other ways."""
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((9001, 48)) @ rng.standard_normal((48, 48))
    store, kind = save_store(tmp_path / "features", rows.astype(np.float32), shard_size=4096).folder, "wide"
    made = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            stage_work.cluster(store, tmp_path / f"threads-{threads}", kind)
        torch.set_num_threads(before)
        made.append(contents(tmp_path / f"threads-{threads}"))
    for world_size in (2, 4):
        folder = tmp_path / f"processes-{world_size}"
        with together(world_size, tmp_path / f"rendezvous-{world_size}", store, folder, kind) as processes:
            assert exit_codes(processes) == [0] * world_size
        made.append(contents(folder))
    assert made[1:] == made[:1] * 3


def test_the_data_need_all_that_is_done_for_them(tmp_path, stores, codebooks):
    """There are several chunks for each process, and empty clusters that are repaired."""
    stage_work.cluster(stores[DISTINCT], tmp_path / "codebook", DISTINCT)
    facts = artifacts.read_manifest(tmp_path / "codebook")
    assert sum(facts["empty_clusters_repaired"]) > 0
    assert contents(tmp_path / "codebook") == codebooks(DISTINCT)


def test_more_processes_than_chunks(tmp_path, rows_by_group):
    store = save_store(tmp_path / "features", rows_by_group[:300]).folder
    stage_work.cluster(store, tmp_path / "alone")
    with together(3, tmp_path / "rendezvous", store, tmp_path / "codebook") as processes:
        assert exit_codes(processes) == [0] * 3
    assert contents(tmp_path / "codebook") == contents(tmp_path / "alone")


@pytest.mark.parametrize("then", [1, 3])
def test_a_clustering_resumes_with_another_number_of_processes(tmp_path, stores, codebooks, then):
    folder, begun = tmp_path / "codebook", context.Event()
    args = (stores["l2"], folder)
    with together(2, tmp_path / "first", *args, begun=begun, pause_s=0.1):
        assert begun.wait(60)
        while not artifacts.has_manifest(folder / "in_progress/iteration-000002"):
            pass
    assert not artifacts.has_manifest(folder)
    with together(then, tmp_path / "second", *args) as processes:
        assert exit_codes(processes) == [0] * then
    assert contents(folder) == codebooks("l2")


@pytest.mark.parametrize("then", [1, 3])
def test_the_second_level_resumes_with_another_number_of_processes(tmp_path, stores, codebooks, then):
    args = (stores["two levels"], tmp_path / "codebook", "two levels")
    groups = [{"group": (rank, 2, tmp_path / "first")} for rank in range(2)]
    # The second process writes nothing before its first coarse cluster: three files.
    with running(stage_work.cluster, *args, **groups[0]) as first:
        with running(stage_work.cluster, *args, **groups[1], dies_at=(4, True)) as second:
            assert exit_code(second) == -signal.SIGKILL
        assert exit_code(first) not in (0, None)
    assert (tmp_path / "codebook/in_progress/fine-000001.json").exists()
    assert not (tmp_path / "codebook/in_progress/fine-000003.json").exists()
    with together(then, tmp_path / "second", *args) as processes:
        assert exit_codes(processes) == [0] * then
    assert contents(tmp_path / "codebook") == codebooks("two levels")


@pytest.mark.parametrize("kind", ["l2", "raw", "whitened"])
@pytest.mark.parametrize("bad", [[2900], [100], [100, 1500, 2900]], ids=["last", "first", "all"])
def test_what_is_wrong_with_one_part_all_processes_say(tmp_path, rows_by_group, kind, bad):
    store = save_store(tmp_path / "features", rows_by_group, UNREADABLE, shard_size=700)
    hashes = dict(store.manifest["sha256"])
    for index in bad:
        path = store.folder / f"rows-{index // 700 * 700:012d}-{min(3000, index // 700 * 700 + 700):012d}.npy"
        damaged = artifacts.read_array(path)
        damaged[index % 700, 3] = np.nan
        hashes[path.name] = artifacts.write_array(path, damaged)
    rewrite_manifest(store.folder, sha256=hashes)  # what an extraction leaves that does not look at its numbers
    FeatureStore.open(store.folder)
    with together(3, tmp_path / "rendezvous", store.folder, tmp_path / "codebook", kind, said=tmp_path) as processes:
        assert exit_codes(processes) == [REFUSED] * 3
    messages = {(tmp_path / f"{rank}").read_text() for rank in range(3)}
    assert len(messages) == 1
    assert messages.pop().startswith(
        f"The features of {len(bad)} of 2996 samples are NaN or infinite, the first is sample {bad[0]}."
    )
    assert not artifacts.has_manifest(tmp_path / "codebook")


@pytest.mark.parametrize("rank", [0, 1])
def test_nobody_waits_for_a_process_that_is_killed(tmp_path, stores, codebooks, rank):
    folder, begun = tmp_path / "codebook", context.Event()
    with together(2, tmp_path / "first", stores["l2"], folder, begun=begun, pause_s=0.3) as processes:
        assert begun.wait(60)
        processes[rank].kill()
        codes = exit_codes(processes)
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] not in (0, None)
    with together(2, tmp_path / "second", stores["l2"], folder) as processes:
        assert exit_codes(processes) == [0, 0]
    assert contents(folder) == codebooks("l2")
