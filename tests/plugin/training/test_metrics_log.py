"""metrics.jsonl of real trainings: a row for each logged step and each phase, whole after a kill; and its clients."""

import json
import os
import resource
import signal
import struct
import time
from importlib.util import find_spec

import pytest
from tiny import NO_CHANCE
from vissl.config import AttrDict

from vissl_clusterfit.config.loggers import LoggerSettings
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.training.loggers import begin_clients, logger_settings
from vissl_clusterfit.plugin.training.metrics_log import MetricsLog, done_before, rows_of, step_row

#: Logs each step, and says nothing of time.
EVERY_STEP = ("config.LOG_FREQUENCY=1", NO_CHANCE)
OF_A_STEP = {"epoch", "iteration", "phase", "loss", "lr", "images/s", "waiting", "seconds_left", "time"}


def rows(folder):
    """Every line must be an object."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def without_times(found):
    return [{name: row[name] for name in row.keys() - {"images/s", "waiting", "seconds_left", "time"}} for row in found]


@pytest.fixture
def training(train, held_out, tmp_path):
    """Two epochs of four steps with a test after each: what was said, and the rows."""

    def run(name, *overrides, code=0):
        said, _ = train(name, *held_out, *EVERY_STEP, "config.OPTIMIZER.num_epochs=2", *overrides, code=code)
        return said, rows(tmp_path / name)

    return run


def test_each_step_and_each_phase_has_a_row(training, tmp_path):
    _, found = training("run")
    kinds = [row.get("split", "step") for row in found]
    assert kinds == [*["step"] * 4, "train", "test", *["step"] * 4, "train", "test"]
    steps = [row for row in found if "split" not in row]
    assert [row["iteration"] for row in steps] == [*range(8)]
    assert all(row.keys() == OF_A_STEP for row in steps)
    assert [row["epoch"] for row in steps] == [1] * 4 + [2] * 4
    assert all(row["lr"] == 0.05 and row["images/s"] > 0 and 0 <= row["waiting"] <= 1 for row in steps)
    of_vissl = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    for row, line in zip([row for row in found if "split" in row], of_vissl, strict=True):
        [[meter, values]] = [pair for pair in line.items() if "meter" in pair[0]]
        assert meter.startswith(row["split"])
        of_heads = values["top_1"]
        assert {name: row[f"{row['split']}/top_1/{name}"] for name in of_heads} == of_heads


@pytest.mark.slow
def test_a_training_that_was_killed_has_each_row_once_and_whole(
    training, start_command, student_overrides, held_out, tmp_path
):
    many = "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=2"
    _, whole = training("whole", many)
    folder = tmp_path / "killed"
    command = [*student_overrides, *held_out, *EVERY_STEP, "config.OPTIMIZER.num_epochs=2", many]
    process = start_command(*command, f"config.CHECKPOINT.DIR={folder}", cwd=tmp_path)
    file = folder / "metrics.jsonl"
    assert any("Starting phase 2 [train]" in line for line in process.stdout), process.stderr.read()
    while b'"epoch": 2' not in file.read_bytes():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(rows(folder)) < len(whole)
    with file.open("ab") as half:
        half.write(b'{"epoch": 2, "iter')
    _, again = training("killed", many)
    assert without_times(again) == without_times(whole)


@pytest.mark.parametrize(
    ("phase", "iteration", "stay"),
    [(0, 4, [0, 3, "train"]), (-1, 2, [0]), (1, 4, [0, 3, "train", "test"]), (1, 5, [0, 3, "train", "test", 4])],
)
def test_what_a_resumed_training_does_again_goes(phase, iteration, stay, tmp_path):
    made = [
        {"phase": 0, "iteration": 0},
        {"phase": 0, "iteration": 3},
        {"phase": 0, "iteration": 4, "split": "train"},
        {"phase": 1, "iteration": 4, "split": "test"},
        {"phase": 2, "iteration": 4},
        {"phase": 2, "iteration": 5},
    ]
    log = MetricsLog(tmp_path, lambda _: True)
    for row in made:
        log.add(row)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"no JSON\n[1]\n{}\n" + b'{"phase": 0, "itera')
    MetricsLog(tmp_path, done_before({"phase_idx": phase, "iteration": iteration}))
    assert [row.get("split", row["iteration"]) for row in rows(tmp_path)] == stay
    MetricsLog(tmp_path, done_before(None))
    assert rows(tmp_path) == []


def test_a_loss_that_is_no_number_is_null_and_half_a_line_is_none():
    row = step_row(loss=float("nan"), lr=0.1, memory_mb=None)
    assert row == {"loss": None, "lr": 0.1}
    assert rows_of(b'{"a": 1}\n\n{"a"') == [{"a": 1}]


def test_a_full_disk_costs_rows_and_leaves_no_half_line(tmp_path, caplog):
    log = MetricsLog(tmp_path, lambda _: False)
    log.add({"iteration": 0})
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
        log.add({"iteration": 1})
        log.add({"iteration": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    log.add({"iteration": 3})
    assert rows(tmp_path) == [{"iteration": 0}, {"iteration": 3}]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["metrics.jsonl lacks rows"]


# --- TensorBoard, Weights & Biases, MLflow ----------------------------------------------------------


def scalars(folder):
    """What TensorBoard reads: of each tag its steps and values."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    events = accumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_tensorboard_has_the_losses_by_the_hook_of_vissl(training, tmp_path):
    _, found = training(
        "run",
        "config.HOOKS.TENSORBOARD_SETUP.USE_TENSORBOARD=true",
        "config.OPTIMIZER.head_optimizer_params.use_different_lr=true",  # two rates, of which the hook rounds a set
        "config.OPTIMIZER.param_schedulers.lr_head={name:constant,value:0.1,update_interval:epoch,"
        "auto_lr_scaling:{auto_scale:false}}",
    )
    of_board = scalars(tmp_path / "run/tb_logs")
    losses = [(row["iteration"], row["loss"]) for row in found if "split" not in row]
    assert of_board["Training/Loss"] == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in losses]
    assert [value for _, value in of_board["Training/Learning_rate"]] == [pytest.approx(0.1)] * 8
    assert any(tag.startswith("Testing/") for tag in of_board)


@pytest.fixture
def offline(run_command, student_overrides, held_out, tmp_path):
    """A training whose clients reach no server: ``training``, and the address of MLflow's store."""
    store = f"file://{tmp_path}/mlflow"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("WANDB_MODE", "offline"),
            ("MLFLOW_ALLOW_FILE_STORE", "true"),
            ("MLFLOW_TRACKING_URI", store),
        ):
            patch.setenv(name, value)

        def run(name, *overrides):
            two = (*student_overrides, *held_out, *EVERY_STEP, "config.OPTIMIZER.num_epochs=2")
            done = run_command(*two, *overrides, f"config.CHECKPOINT.DIR={tmp_path / name}", cwd=tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr, rows(tmp_path / name)

        yield run, store


def forget_last_epoch(folder):
    """A training of two epochs resumes after the first, and its runs elsewhere with it."""
    for name in [*os.listdir(folder)]:
        if "phase1" in name or name in ("checkpoint.torch", "training.lease"):
            (folder / name).unlink()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_has_each_row_and_a_resumed_training_goes_on_in_its_run(offline, tmp_path):
    from mlflow import MlflowClient

    training, store = offline
    use = ("config.CLUSTERFIT.LOGGERS.USE=[mlflow]", "config.CLUSTERFIT.LOGGERS.PROJECT=tiny")
    said, _ = training("run", *use, "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    [run] = (client := MlflowClient(store)).search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert f"MLflow has this training as run {run.info.run_id}" in said
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["OPTIMIZER.num_epochs"] == "2"

    def history(name):
        return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]

    found = rows(tmp_path / "run")
    assert history("loss") == [(row["iteration"], row["loss"]) for row in found if "split" not in row]
    assert len(history("test/top_1/clusters")) == 2
    forget_last_epoch(tmp_path / "run")
    training("run", *use, "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert [step for step, _ in history("loss")] == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    assert client.get_run(run.info.run_id).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_has_each_row_and_a_resumed_training_goes_on_in_its_run(offline, tmp_path):
    training, _ = offline
    use = ("config.CLUSTERFIT.LOGGERS.USE=[wandb]", "config.CLUSTERFIT.LOGGERS.NAME=mine")
    said, found = training("run", *use, "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    assert "Weights & Biases has this training: " in said
    assert "wandb:" not in said
    [first] = wandb_runs(tmp_path / "run")
    [run] = {record.run.run_id for record in first if record.WhichOneof("record_type") == "run"}
    assert json.loads((tmp_path / "run/loggers.json").read_text())["wandb"] == run
    assert [row["loss"] for row in wandb_rows(first) if "loss" in row] == [
        row["loss"] for row in found if "loss" in row
    ]
    forget_last_epoch(tmp_path / "run")
    training("run", *use, "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    _, second = wandb_runs(tmp_path / "run")
    assert {record.run.run_id for record in second if record.WhichOneof("record_type") == "run"} == {run}
    assert [row["iteration"] for row in wandb_rows(second) if "loss" in row] == [4, 5, 6, 7]


def wandb_runs(folder):
    """The records of each start, as the client has left them on the disk."""
    from wandb.proto import wandb_internal_pb2

    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=os.path.getmtime)
    return [[wandb_internal_pb2.Record.FromString(data) for data in logged(file.read_bytes())] for file in files]


def logged(content):
    """The entries of a log in LevelDB's format: blocks of 32 KiB, in which each part has its length and its kind."""
    place, entry = 7, b""  # after the mark of the file
    while len(content) - place >= 7:
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        entry += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


def wandb_rows(records):
    kinds = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
        for history in kinds
    ]


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_a_client_that_refuses_is_told_of_in_one_message_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://secret-user:secret-word@host")
    with pytest.raises(ConfigError, match=r"LOGGERS\.USE: found mlflow, whose client refuses: ") as found:
        begin_clients(AttrDict({}), LoggerSettings(use=["mlflow"]), tmp_path)
    assert "secret-word" not in str(found.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("use", ["[tensorflow]", "[wandb,wandb]"])
def test_other_loggers_are_refused(use, student_overrides, tmp_path):
    overrides = [*student_overrides, f"config.CHECKPOINT.DIR={tmp_path}", f"config.CLUSTERFIT.LOGGERS.USE={use}"]
    with pytest.raises(ConfigError, match=r"LOGGERS\.USE: found .*; allowed: some of \[wandb, mlflow\]"):
        logger_settings(compose(overrides)[2])
