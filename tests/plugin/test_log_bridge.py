"""What a log may not say."""

import logging

import pytest

from vissl_clusterfit.plugin.log_bridge import environment_lines, without_secrets


def test_of_the_environment_only_what_matters_is_told():
    environment = {
        "CUDA_VISIBLE_DEVICES": "0",
        "NCCL_DEBUG": "INFO",
        "SLURM_JOB_ID": "7",
        "OMP_NUM_THREADS": "1",
        "VISSL_CLUSTERFIT_TRUST_CHECKPOINTS": "0",
        "MASTER_ADDR": "node0",
        "LOCAL_RANK": "0",
        "TORCHELASTIC_RUN_ID": "x",
        "SLURM_EXPORT_ENV": "ALL,HF=mysecret",
        "SLURM_JWT_TOKEN": "mysecret",
        "VISSL_S3": "https://me:mysecret@host/data",
        "WANDB_API_KEY": "mysecret",
        "AWS_SESSION": "mysecret",
        "HOME": "/home/mysecret",
        "CUDAMYSECRET": "mysecret",
        "MY_CUDA_X": "mysecret",
    }
    lines = environment_lines(environment)
    assert [line.partition(":")[0] for line in lines] == sorted(
        [*list(environment)[:8], "SLURM_EXPORT_ENV", "SLURM_JWT_TOKEN", "VISSL_S3"]
    )
    assert "CUDA_VISIBLE_DEVICES:\t0" in lines
    assert "VISSL_S3:\thttps://***@host/data" in lines
    assert "mysecret" not in "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "s3://me:mysecret@host/bucket",
        "https://mysecret@github.com/x",
        "https://host/x?X-Amz-Signature=mysecret&y=1",
        "https://host/x?sig=mysecret",
        "'ADDITIONAL_PARAMETERS': {'export': 'ALL,WANDB_API_KEY=mysecret,HF_TOKEN=mysecret'}",
        "{'PASSWORD': 'mysecret', 'x': 1}",
        "{'api_key': \"mysecret\"}",
        "secret: mysecret",
        "ghp_mysecretmysecretmysecret",
    ],
)
def test_secrets_are_taken_out(text):
    assert "mysecret" not in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "config.CLUSTERFIT.TEACHER.STATE_DICT_KEY=model: found 'x'",
        "{'INPUT_KEY_NAMES': ['data'], 'STATE_DICT_KEY_NAME': 'classy_state_dict', 'CLASSIFIER': 'token'}",
        "https://dl.fbaipublicfiles.com/vissl/model.torch",
        "/data/user@host/images",
        "12 of 30 samples: 3.5 %",
    ],
)
def test_what_is_no_secret_stays(text):
    assert without_secrets(text) == text


def test_every_line_of_a_log_goes_through_it(caplog):
    with caplog.at_level(logging.INFO):
        logging.getLogger("vissl.some").info("Loading %s", "s3://me:mysecret@host/x")
        logging.getLogger("other").info("%d images", 3)
    assert caplog.messages == ["Loading s3://***@host/x", "3 images"]
