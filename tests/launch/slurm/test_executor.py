"""What is submitted, and what is refused instead. The jobs of this file never start."""

import os
import re
import sys

import pytest
from fake_slurm import FakeSlurm
from suite import benchmarks

from vissl_clusterfit.launch.slurm.job import job_port

CHAIN = (
    "config.CLUSTERFIT.SLURM.STAGES=[train,extract,cluster]",  # in any order
    "config.CLUSTERFIT.SLURM.EXTRACT.NUM_NODES=16",
    "config.CLUSTERFIT.SLURM.EXTRACT.PARTITION=cheap",
    "config.CLUSTERFIT.SLURM.EXTRACT.TIME_HOURS=4",
    "config.CLUSTERFIT.SLURM.CLUSTER.NUM_CPU_PER_PROC=32",
    "config.CLUSTERFIT.SLURM.CLUSTER.ADDITIONAL_PARAMETERS={qos:low}",
    "config.CLUSTERFIT.SLURM.TRAIN.DEVICE=gpu",
    "config.CLUSTERFIT.SLURM.TRAIN.NUM_NODES=2",
    "config.CLUSTERFIT.SLURM.TRAIN.NUM_PROC_PER_NODE=8",
    "config.CLUSTERFIT.SLURM.TRAIN.CONSTRAINT='a100&ib'",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    slurm = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    slurm.hold.touch()
    return slurm


@pytest.fixture
def submit(command, cluster, student_overrides, tmp_path):
    """Submits a run; what the command said, and the options of its jobs."""

    def run(*overrides: str):
        before = cluster.jobs()
        result = command(
            *student_overrides,
            "config.SLURM.USE_SLURM=true",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            f"config.SLURM.LOG_FOLDER={tmp_path / 'logs'}",
            *overrides,
            cwd=tmp_path,
        )
        return result, {job: cluster.options(job) for job in cluster.jobs() if job not in before}

    return run


def test_a_run_is_one_job_that_asks_for_nothing_that_it_does_not_need(submit, cluster, tmp_path):
    result, jobs = submit(
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        "config.SLURM.NAME=mine",
        "config.SLURM.TIME_HOURS=1",
        "config.SLURM.TIME_MINUTES=30",
        "config.SLURM.MEM_GB=16",
        "config.SLURM.NUM_CPU_PER_PROC=3",
        "+config.SLURM.ADDITIONAL_PARAMETERS.account=vision",
    )
    assert result.returncode == 0, result.stderr
    ((job, options),) = jobs.items()
    assert not {"constraint", "partition", "gpus-per-node", "gres", "dependency"} & options.keys()
    asked = ("job-name", "time", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "account", "comment", "signal")
    assert [options[name] for name in asked] == [
        "mine",
        "90",
        "1",
        "1",
        "6",
        "16GB",
        "vision",
        "vissl job",
        "USR2@90",
    ]
    script = (cluster.folder / f"{job}.sh").read_text()
    assert (" -P -u -m submitit.core._submit" in script) == (sys.version_info >= (3, 11))
    assert f"Follow: squeue --jobs={job}; tail -F {tmp_path / 'logs'}/{job}_0_log.out" in result.stdout
    assert f"Cancel: scancel {job}" in result.stdout
    assert f"logs are in {tmp_path / 'logs'}." in result.stdout


def test_a_chain_has_one_job_per_stage_each_with_what_it_asks_for(submit):
    result, jobs = submit("config.SLURM.PARTITION=fast", *CHAIN)
    assert result.returncode == 0, result.stderr
    (first, extract), (second, cluster), (_, train) = jobs.items()
    assert [options["job-name"] for options in jobs.values()] == ["vissl-extract", "vissl-cluster", "vissl-train"]
    assert [options.get("dependency") for options in jobs.values()] == [None, f"afterok:{first}", f"afterok:{second}"]
    assert [options["partition"] for options in jobs.values()] == ["cheap", "fast", "fast"]
    assert [options["nodes"] for options in jobs.values()] == ["16", "1", "2"]
    assert [options["time"] for options in jobs.values()] == [str(4 * 60), str(72 * 60), str(72 * 60)]
    assert [options.get("gpus-per-node") for options in jobs.values()] == [None, None, "8"]
    assert (extract["cpus-per-task"], cluster["cpus-per-task"], train["cpus-per-task"]) == ("8", "32", "64")
    assert (cluster["qos"], train["constraint"]) == ("low", "a100&ib")
    assert "constraint" not in extract


def test_what_is_there_is_not_submitted(submit, student_run):
    overrides = (f"config.CLUSTERFIT.OUTPUT_DIR={student_run / 'clusterfit'}", *CHAIN)
    result, jobs = submit(*overrides)
    assert [options["job-name"] for options in jobs.values()] == ["vissl-train"]
    assert "dependency" not in next(iter(jobs.values()))
    assert "extract: is there already; not submitted." in result.stdout
    as_it_was = ("config.CLUSTERFIT.SLURM.TRAIN.NUM_NODES=1", "config.CLUSTERFIT.SLURM.TRAIN.NUM_PROC_PER_NODE=1")
    result, jobs = submit(*overrides, *as_it_was, f"config.CHECKPOINT.DIR={student_run}")
    assert (result.returncode, jobs) == (0, {}), result.stderr
    assert "train: is there already; not submitted." in result.stdout


TRANSFER, NEIGHBOURS = "clusterfit/transfer", "benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN"
SUITE = (
    benchmarks(
        {"CONFIG": TRANSFER, "OVERRIDES": ["config.SLURM.TIME_HOURS=2", "config.DISTRIBUTED.NUM_PROC_PER_NODE=1"]},
        {"CONFIG": NEIGHBOURS, "NAME": "knn"},
    ),
    "config.CLUSTERFIT.SLURM.BENCHMARK.PARTITION=cheap",
    "config.CLUSTERFIT.SLURM.BENCHMARK.DEVICE=gpu",
    "config.CLUSTERFIT.SLURM.BENCHMARK.NUM_PROC_PER_NODE=4",
)


@pytest.mark.parametrize("chain", [(), CHAIN])
def test_each_benchmark_is_a_job_after_the_training_with_what_it_asks_for(submit, chain):
    result, jobs = submit("config.SLURM.PARTITION=fast", *chain, *SUITE)
    assert result.returncode == 0, result.stderr
    training, transfer, neighbours = list(jobs)[-3:]
    asked = [jobs[job] for job in (transfer, neighbours)]
    assert jobs[training]["job-name"] == ("vissl-train" if chain else "vissl")
    assert [options["dependency"] for options in asked] == [f"afterok:{training}"] * 2
    assert [options["job-name"] for options in asked] == ["vissl-transfer", "vissl-knn"]
    assert [options["time"] for options in asked] == [str(2 * 60), str(72 * 60)]
    assert [options["gpus-per-node"] for options in asked] == ["1", "4"]
    assert {(options["partition"], options["nodes"]) for options in asked} == {("cheap", "1")}


def test_benchmarks_of_a_training_that_is_there_wait_for_nothing(submit, student_run):
    overrides = (*SUITE, f"config.CHECKPOINT.DIR={student_run}")
    _, jobs = submit(*overrides)
    assert [options.get("dependency") for options in jobs.values()] == [None, None]
    _, jobs = submit(*overrides, "config.CLUSTERFIT.SLURM.STAGES=[extract]")
    assert jobs == {}


@pytest.mark.parametrize(
    "overrides, message",
    [
        ([benchmarks({"CONFIG": "clusterfit/transfr"})], r"RUN, transfr: .*Did you mean .*clusterfit/transfer"),
        (["config.CLUSTERFIT.SLURM.STAGES=[extrct]"], r"SLURM\.STAGES: found the unknown stage 'extrct'.*mean extract"),
        (["config.CLUSTERFIT.SLURM.STAGES=[label]", "engine_name=clusterfit_label"], "STAGES: found .* engine_name"),
        (["config.CLUSTERFIT.SLURM.TRAIN.NUM_NODES=0"], r"SLURM\.TRAIN\.NUM_NODES: found 0; allowed: at least 1"),
        (["config.SLURM.TIME_HOURS=0"], r"SLURM\.TIME_HOURS: found no time at all"),
        (["config.SLURM.LOG_FOLDER=/proc/logs"], r"SLURM\.LOG_FOLDER: found /proc/logs \(.*\); allowed: a folder"),
        (["config.SLURM.LOG_FOLDER=s3://logs"], r"SLURM\.LOG_FOLDER: found s3://logs; allowed: a folder"),
        (["config.SLURM.CLUSTER=pbs"], r"SLURM\.CLUSTER: found 'pbs'; allowed: 'slurm' \| 'local'"),
        (["config.SLURM.CLUSTER=local", "config.DISTRIBUTED.NUM_NODES=2"], "NUM_NODES: found 2 with .*=local"),
        (["config.MACHINE.DEVICE=tpu"], r"MACHINE\.DEVICE: found 'tpu'"),
    ],
)
def test_a_mistake_is_one_message_and_no_job(submit, overrides, message):
    result, jobs = submit(*overrides)
    assert (result.returncode, jobs) == (2, {})
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr


def test_a_working_directory_whose_name_has_two_lines_is_no_folder_for_logs(
    command, cluster, student_overrides, tmp_path
):
    """The second would be a line of the job's script."""
    before, folder = cluster.jobs(), tmp_path / "logs\ntouch pwned"
    folder.mkdir()
    use = ("config.SLURM.USE_SLURM=true", f"config.CHECKPOINT.DIR={tmp_path / 'run'}")
    result = command(*student_overrides, *use, cwd=folder)
    assert (result.returncode, cluster.jobs()) == (2, before)
    assert "config.SLURM.LOG_FOLDER: found" in result.stderr
    assert "allowed: a path of one line" in result.stderr


def test_what_slurm_refuses_is_said_and_what_went_before_is_cancelled(submit, cluster):
    result, jobs = submit(*CHAIN, "config.CLUSTERFIT.SLURM.TRAIN.PARTITION=nowhere")
    assert result.returncode == 2
    assert result.stderr.count("invalid partition specified: nowhere") == 1
    assert "Traceback" not in result.stderr
    assert [cluster.state(job) for job in jobs] == ["CANCELLED", "CANCELLED"]
    assert all(f"Job {job} is cancelled again." in result.stderr for job in jobs)


def test_without_slurm_the_message_says_what_to_do(run_command, student_overrides, tmp_path):
    """Where SLURM is not on the PATH, as on this machine without the stand-in."""
    result = run_command(
        *student_overrides,
        "config.SLURM.USE_SLURM=true",
        f"config.CHECKPOINT.DIR={tmp_path}",
        f"config.SLURM.LOG_FOLDER={tmp_path}",
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "no sbatch and no srun on the PATH" in result.stderr
    assert "config.SLURM.CLUSTER=local" in result.stderr


def test_nothing_is_submitted_inside_a_job(student_overrides, cluster, tmp_path, monkeypatch, capfd):
    from vissl_clusterfit.launch import main

    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("PATH", f"{cluster.bin}:{os.environ['PATH']}")
    before = cluster.jobs()
    code = main.main(
        [*student_overrides, "config.SLURM.USE_SLURM=true", f"config.CHECKPOINT.DIR={tmp_path}"],
    )
    assert (code, cluster.jobs()) == (2, before)
    assert "found true inside job 77 (SLURM_JOB_ID is set)" in capfd.readouterr().err


def test_our_keys_are_there_with_any_config_of_vissl(command, cluster, tmp_path):
    """What its benchmarks ask for is what it asks for."""
    before = cluster.jobs()
    result = command(
        "config=test/cpu_test/test_cpu_resnet_simclr",
        "config.SLURM.USE_SLURM=true",
        "config.SLURM.CLUSTER=slurm",
        f"config.CHECKPOINT.DIR={tmp_path}",
        f"config.SLURM.LOG_FOLDER={tmp_path}",
        f"+{benchmarks({'CONFIG': TRANSFER})}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    training, transfer = (job for job in cluster.jobs() if job not in before)
    assert cluster.options(transfer)["dependency"] == f"afterok:{training}"
    assert not {"gpus-per-node", "partition"} & cluster.options(transfer).keys()
    assert "OVERWRITE_EXISTING=True" in result.stdout  # as that config wants it


def test_jobs_of_several_nodes_have_ports_of_their_own():
    ports = [job_port(str(job)) for job in range(4_000_000, 4_020_000)]
    assert len(set(ports)) == len(ports)
    assert min(ports) > 1023
    assert max(ports) < 32768
    assert job_port("123_4") == job_port("123")
