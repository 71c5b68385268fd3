"""What a refused command says, and what it leaves."""

import json

from vissl_clusterfit.launch import main

# What is written before the first step of any training: VISSL's config and log, and our record of what it is made from.
BEFORE_A_STEP = {"train_config.yaml", "log.txt", "stdout.json", "training.json"}


def require_refusal(result, *fragments: str) -> None:
    """The exit code of a user's mistake, and one message on stderr that holds all ``fragments``."""
    assert result.returncode == main.USER_ERROR, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error: ") == 1, result.stderr
    message = result.stderr.partition("error: ")[2]
    assert all(fragment in message for fragment in fragments), message


def require_nothing_half_written(folder):
    """No artefact says that it is complete, no file is half there, and VISSL wrote no checkpoint."""
    manifests = [json.loads(file.read_text()) for file in folder.rglob("manifest.json")]
    assert [manifest["kind"] for manifest in manifests if manifest.get("complete", True)] == []
    assert list(folder.rglob("*.tmp")) == []
    assert {path.name for path in folder.glob("*")} <= {*BEFORE_A_STEP, "clusterfit"}
