"""The real command with artefacts and weights on another file system."""

import os
import shutil

import object_store
import pytest
import tiny_store
from command import CommandServer
from object_store import contents, handler_of

from vissl_clusterfit import dependencies

RUN, WEIGHTS = "store://bucket/run", "store://bucket/weights/teacher.torch"


@pytest.fixture(scope="module")
def run_with_handlers(tmp_path_factory, teacher):
    """``run_command`` where processes import a module of handlers, and the teacher lies in the object store."""
    root = tmp_path_factory.mktemp("store")
    file = handler_of(RUN).file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler_of(RUN), "root", root)
        patch.setenv(dependencies.IMPORT_VARIABLE, "object_store")
        patch.setenv(object_store.ROOT_VARIABLE, str(root))
        patch.setenv("PYTHONPATH", os.path.dirname(object_store.__file__), prepend=os.pathsep)
        file(WEIGHTS).parent.mkdir()
        shutil.copy(teacher, file(WEIGHTS))
        server = CommandServer()
        yield server.run
        server.stop()


@pytest.fixture
def overrides(student_overrides):
    return [*student_overrides, f"config.CLUSTERFIT.OUTPUT_DIR={RUN}", f"config.CLUSTERFIT.TEACHER.WEIGHTS={WEIGHTS}"]


def test_a_run_trains_on_artefacts_of_another_file_system(run_with_handlers, overrides, student_run, tmp_path):
    result = run_with_handlers(*overrides, f"config.CHECKPOINT.DIR={tmp_path}/run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert contents(RUN) == tiny_store.contents(student_run / "clusterfit")
    assert (tmp_path / "run" / "metrics.json").read_bytes() == (student_run / "metrics.json").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["run"]  # and no folder named after the URI
    again = run_with_handlers(*overrides, f"config.CHECKPOINT.DIR={tmp_path}/again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"Labels of 30 samples are in {RUN}/labels/train already." in again.stdout


@pytest.mark.slow
def test_every_process_of_a_run_has_the_handlers(run_with_handlers, start_script, overrides, student_run, tmp_path):
    two = "store://bucket/two"
    process = start_script(
        *overrides,
        "config.MULTI_PROCESSING_METHOD=spawn",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
        f"config.CHECKPOINT.DIR={tmp_path}/run",
        f"config.CLUSTERFIT.OUTPUT_DIR={two}",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        cwd=tmp_path,
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert contents(two) == tiny_store.contents(student_run / "clusterfit")


def test_a_scheme_without_a_handler_stops_the_run_with_one_message(run_command, student_overrides, tmp_path):
    uri = "gs://bucket/run"
    command = [*student_overrides, f"config.CLUSTERFIT.OUTPUT_DIR={uri}", f"config.CHECKPOINT.DIR={tmp_path}/run"]
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert lines[0].startswith(
        f"error: config.CLUSTERFIT.OUTPUT_DIR: found '{uri}', and iopath has no handler for gs://"
    )
    assert len(lines) == 1
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_there_are_named(run_with_handlers, overrides, tmp_path):
    missing = "store://bucket/weights/none.torch"
    command = [*overrides, f"config.CLUSTERFIT.TEACHER.WEIGHTS={missing}", f"config.CHECKPOINT.DIR={tmp_path}/run"]
    result = run_with_handlers(*command, "config.CLUSTERFIT.OUTPUT_DIR=store://bucket/new", cwd=tmp_path)
    assert result.returncode == 2
    assert f"config.CLUSTERFIT.TEACHER.WEIGHTS: found {missing}, which does not exist" in result.stderr
    assert contents("store://bucket/new") == {}
