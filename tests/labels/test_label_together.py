"""Labels are the same to the byte on any number of processes, also when some are killed."""

import contextlib
import signal

import numpy as np
import pytest
import stage_work
from processes import context, exit_code, running
from tiny_store import contents, rewrite_rows, save_codebook, save_store

from vissl_clusterfit.storage import artifacts

UNREADABLE = [0, 77, 500, 2999]
#: What is asked of the labels, beside one for each sample.
RULES = {
    "plain": {},
    "some too far": {"max_distance": 12.0},
    "the nearest ones": {"top_clusters": 3},
    "bounded": {"max_cluster_size": 1.0},
    "loosely bounded": {"max_cluster_size": 1.5, "top_clusters": 2},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory, rows_by_group):
    return save_store(tmp_path_factory.mktemp("rows") / "features", rows_by_group, UNREADABLE, shard_size=700).folder


@pytest.fixture(scope="module")
def codebooks(tmp_path_factory, rows_by_group):
    folder = tmp_path_factory.mktemp("codebooks")
    return {
        backend: save_codebook(folder / backend, rows_by_group[::100], cluster_backend=backend).folder
        for backend in ("torch", "faiss")
    }


@contextlib.contextmanager
def together(world_size, meeting, *args, said=None, **options):
    """All processes of one run."""
    with contextlib.ExitStack() as stack:
        work = [stage_work.label] if said is None else [stage_work.told, stage_work.label]
        yield [
            stack.enter_context(
                running(
                    *work,
                    *([] if said is None else [said / f"{rank}"]),
                    *args,
                    group=(rank, world_size, meeting),
                    **options,
                )
            )
            for rank in range(world_size)
        ]


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize(("rules", "world_size"), [*((rules, 2) for rules in RULES), ("plain", 4), ("bounded", 3)])
def test_the_number_of_processes_changes_no_byte(tmp_path, store, codebooks, rules, world_size, backend):
    options = RULES[rules]
    with running(stage_work.label, store, codebooks[backend], tmp_path / "alone", **options) as alone:
        assert exit_code(alone) == 0
    with together(world_size, tmp_path / "meeting", store, codebooks[backend], tmp_path / "labels", **options) as all_:
        assert [exit_code(process) for process in all_] == [0] * world_size
    assert contents(tmp_path / "labels") == contents(tmp_path / "alone")


def test_more_processes_than_chunks(tmp_path, rows_by_group, codebooks):
    store = save_store(tmp_path / "features", rows_by_group[:300]).folder
    with running(stage_work.label, store, codebooks["torch"], tmp_path / "alone") as alone:
        assert exit_code(alone) == 0
    with together(3, tmp_path / "meeting", store, codebooks["torch"], tmp_path / "labels") as processes:
        assert [exit_code(process) for process in processes] == [0] * 3
    assert contents(tmp_path / "labels") == contents(tmp_path / "alone")


@pytest.mark.parametrize("rules", ["plain", "bounded"])
@pytest.mark.parametrize("then", [1, 3])
def test_what_was_killed_goes_on_with_another_number_of_processes(tmp_path, store, codebooks, rules, then):
    options, folder = RULES[rules], tmp_path / "labels"
    with running(stage_work.label, store, codebooks["torch"], tmp_path / "alone", **options) as alone:
        assert exit_code(alone) == 0
    begun = context.Event()
    args = (store, codebooks["torch"], folder)
    with together(2, tmp_path / "first", *args, begun=begun, pause_s=0.1, **options) as processes:
        assert begun.wait(60)
        while not (folder / "progress.json").exists():
            pass
        for process in processes:
            process.kill()
        assert [exit_code(process) for process in processes] == [-signal.SIGKILL] * 2
    assert not artifacts.has_manifest(folder)
    if then == 1:
        with running(stage_work.label, *args, **options) as alone:
            assert exit_code(alone) == 0
    else:
        with together(then, tmp_path / "second", *args, **options) as processes:
            assert [exit_code(process) for process in processes] == [0] * then
    assert contents(folder) == contents(tmp_path / "alone")


def test_what_one_process_finds_wrong_all_say(tmp_path, rows_by_group, codebooks):
    """In the last chunk, which is not the primary process's."""
    store = save_store(tmp_path / "features", rows_by_group, shard_size=1000)
    name = "rows-000000002000-000000003000.npy"
    wrong = artifacts.read_array(store.folder / name)
    wrong[990, 3] = np.nan
    store = rewrite_rows(store, name, wrong)
    said = tmp_path / "said"
    said.mkdir()
    with together(2, tmp_path / "meeting", store.folder, codebooks["torch"], tmp_path / "labels", said=said) as both:
        assert [exit_code(process) for process in both] == [stage_work.REFUSED] * 2
    messages = {(said / f"{rank}").read_text() for rank in range(2)}
    assert len(messages) == 1
    assert "sample 2990 are NaN or infinite" in messages.pop()
    assert not artifacts.has_manifest(tmp_path / "labels")


def test_a_disk_that_is_full_ends_all(tmp_path, store, codebooks):
    said = tmp_path / "said"
    said.mkdir()
    args = (store, codebooks["torch"], tmp_path / "labels")
    with together(2, tmp_path / "meeting", *args, said=said, max_file_bytes=9000) as both:
        assert [exit_code(process) for process in both] == [stage_work.REFUSED] * 2
    assert not artifacts.has_manifest(tmp_path / "labels")
