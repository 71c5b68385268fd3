"""The same artefacts, byte for byte, however many processes extract and however data workers are started."""

from pathlib import Path

import pytest


def contents(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_processes, start_method", [(2, "fork"), (1, "forkserver"), (1, "spawn")], ids=lambda value: str(value)
)
def test_processes_and_workers_change_nothing(
    student_run, student_overrides, run_command, tmp_path, num_processes, start_method
):
    """Data workers unpickle the paired source, so there, too, VISSL has to be repaired first."""
    folder = tmp_path / "run"
    result = run_command(
        *student_overrides,
        f"config.CHECKPOINT.DIR={folder}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
        f"config.MULTI_PROCESSING_METHOD={start_method}",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert contents(folder / "clusterfit") == contents(student_run / "clusterfit")
    assert (folder / "model_final_checkpoint_phase0.torch").is_file()
