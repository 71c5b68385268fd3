#!/usr/bin/env bash
# A network of timm teaches another one: bash examples/timm_teacher_to_student.sh IMAGES WEIGHTS FOLDER [OVERRIDE ...]
#
# IMAGES is a place that docs/images.md knows; WEIGHTS a file for the teacher, or "library" where timm reaches its hub.
# FOLDER gets labels.csv with the names of the images, the student's checkpoints, and export/, which plain timm loads.
# Stopped and started again, it resumes.
set -euo pipefail
images=$1 weights=$2 folder=$3
shift 3

vissl-clusterfit run config=pretrain/supervised/supervised_1gpu_resnet_example +config/clusterfit=student \
    "config.CLUSTERFIT.TEACHER.MODEL=${TEACHER:-timm:resnet50}" "config.CLUSTERFIT.TEACHER.WEIGHTS=$weights" \
    "config.MODEL.TRUNK.NAME=${STUDENT:-timm:resnet18}" \
    config.DATA.TRAIN.DATA_SOURCES=[images] "config.DATA.TRAIN.DATA_PATHS=[\"$images\"]" \
    config.OPTIMIZER.num_epochs=30 config.OPTIMIZER.param_schedulers.lr.name=cosine \
    "config.CHECKPOINT.DIR=$folder" "$@"
vissl-clusterfit report "$folder"
test -e "$folder/labels.csv" || vissl-clusterfit export labels "$folder" "$folder/labels.csv"
