"""Sweeps: which runs they are, and what becomes of them, with the script as a user starts it."""

import json
import signal
import time
from pathlib import Path

import pytest

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch import main
from vissl_clusterfit.launch.runs.sweep import safe_name, sweep_runs

SIMCLR = "config=test/cpu_test/test_cpu_resnet_simclr"


def test_a_sweep_is_the_product_of_its_values():
    runs = sweep_runs([SIMCLR, "config.CHECKPOINT.DIR=/runs", "config.SEED_VALUE=1,2", "config.LOG_FREQUENCY=3,4"])
    assert [run.name for run in runs] == [
        f"config.SEED_VALUE={seed},config.LOG_FREQUENCY={frequency}" for seed in (1, 2) for frequency in (3, 4)
    ]
    assert [run.folder for run in runs] == [f"/runs/{run.name}" for run in runs]
    assert runs[1].overrides == (
        SIMCLR,
        "config.CHECKPOINT.DIR=/runs",
        "config.SEED_VALUE=1",
        "config.LOG_FREQUENCY=4",
        "config.CHECKPOINT.DIR='/runs/config.SEED_VALUE=1,config.LOG_FREQUENCY=4'",
    )


def test_configs_and_lists_are_swept_and_the_folder_may_come_from_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = sweep_runs([SIMCLR, "+config/clusterfit=student,defaults", "config.DATA.TRAIN.DATA_PATHS=[a,b],[c]"])
    assert [run.overrides[1:3] for run in runs] == [
        (f"+config/clusterfit={name}", f"config.DATA.TRAIN.DATA_PATHS={paths}")
        for name in ("student", "defaults")
        for paths in ("[a,b]", "[c]")
    ]
    assert {str(Path(run.folder).parent) for run in runs} == {str(tmp_path)}
    assert len({run.folder for run in runs}) == 4


@pytest.mark.parametrize(
    "override", ["config.SEED_VALUE=1", "+config.A=[1,2]", "+config.A={a:1,b:2}", "+config.A='1,2'", '+config.A="1,2"']
)
def test_commas_inside_lists_mappings_and_quotes_are_no_sweep(override):
    assert sweep_runs([SIMCLR, override]) == []


def test_a_mistake_in_any_of_the_runs_is_said_before_the_first_starts():
    with pytest.raises(ConfigError, match=r"Did you mean \+config/clusterfit=student"):
        sweep_runs([SIMCLR, "+config/clusterfit=defaults,studnet"])


def test_a_sweep_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="a sweep without an end"):
        sweep_runs([SIMCLR, "config.SEED_VALUE=interval(0,1)"])


def test_runs_that_are_submitted_as_jobs_are_not_taken_for_finished():
    runs = sweep_runs([SIMCLR, "config.SEED_VALUE=1,2", "config.SLURM.USE_SLURM=true"])
    assert [run.submits for run in runs] == [True, True]


def test_names_of_folders_are_safe_and_differ_where_the_texts_do():
    assert safe_name("config.A=0.1,config.B=-x") == "config.A=0.1,config.B=-x"
    texts = ["+config/a=../b", "+config/a=...b", "+config/a=.. b", "a" * 300, "a" * 301, "a='ä ö'"]
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(names)
    assert all("/" not in name and len(name) < 120 and name.isascii() and " " not in name for name in names)


@pytest.mark.slow
def test_each_run_has_its_folder_and_one_that_fails_does_not_stop_the_others(
    start_script, student_overrides, student_run, tmp_path
):
    """There are 30 samples. What has finished is not run again."""
    command = [
        *student_overrides,
        "engine_name=clusterfit_cluster",
        f"config.CLUSTERFIT.FEATURES.PATH={student_run}/clusterfit/features",
        f"config.CHECKPOINT.DIR={tmp_path / 'runs'}",
        "config.CLUSTERFIT.NUM_CLUSTERS=31,2",
    ]
    folders = {
        num_clusters: tmp_path / f"runs/config.CLUSTERFIT.NUM_CLUSTERS={num_clusters}" for num_clusters in (31, 2)
    }
    for outcome in ("finished", "was finished before"):
        process = start_script(*command, cwd=tmp_path)
        said, errors = process.communicate()
        assert process.returncode == main.USER_ERROR == 2, errors
        assert "NUM_CLUSTERS: found 31 for 30 samples" in errors
        assert said.splitlines()[-3:] == [
            "2 runs:",
            f"  {outcome}: config.CLUSTERFIT.NUM_CLUSTERS=2 in {folders[2]}",
            f"  FAILED with exit code 2: config.CLUSTERFIT.NUM_CLUSTERS=31 in {folders[31]}",
        ]
    manifest = json.loads((folders[2] / "clusterfit/codebook/manifest.json").read_text())
    assert manifest["inputs"]["settings"]["num_clusters"] == 2
    assert not (folders[31] / "clusterfit/codebook").exists()


def processes_of(folder) -> list[str]:
    """The command lines that name a folder, of the processes that are there."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "before"),
    [
        (signal.SIGINT, 130, ()),
        (signal.SIGKILL, -signal.SIGKILL, ()),
        # As a script starts what it puts into the background.
        (signal.SIGKILL, -signal.SIGKILL, ("bash", "-c", 'trap "" INT; exec "$@"', "bash")),
    ],
)
def test_a_sweep_that_is_stopped_leaves_no_run(start_script, student_overrides, tmp_path, number, code, before):
    process = start_script(
        *student_overrides,
        "config.OPTIMIZER.num_epochs=1000",
        f"config.CHECKPOINT.DIR={tmp_path / 'runs'}",
        "config.SEED_VALUE=1,2",
        cwd=tmp_path,
        before=before,
    )
    assert any("Starting phase 1 " in line for line in process.stdout), process.stderr.read()
    assert len(processes_of(tmp_path / "runs")) > 1
    process.send_signal(number)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == code
    assert any(not processes_of(tmp_path / "runs") or time.sleep(0.5) for _ in range(60))
    if number != signal.SIGKILL:
        runs = [f"{tmp_path}/runs/config.SEED_VALUE={seed}" for seed in (1, 2)]
        assert said.splitlines()[-2:] == [
            f"  interrupted: config.SEED_VALUE=1 in {runs[0]}",
            f"  not started: config.SEED_VALUE=2 in {runs[1]}",
        ]
