"""Names that nothing is registered under: one message with the nearest name, and exit code 2."""

import pytest
from refusals import require_refusal

_LR = "config.OPTIMIZER.param_schedulers.lr"
#: What is wrong, and what the message says.
MISTAKES = {
    "nothing where a name must be": (
        ["config.TRAINER.TASK_NAME=null"],
        ["config.TRAINER.TASK_NAME: found None; allowed: the name of a registered task"],
    ),
    "a list where a name must be": (
        [f"{_LR}.name=[1]"],
        [f"{_LR}.name: found [1]; allowed: the name of a registered scheduler"],
    ),
    "a misspelt engine": (
        ["engine_name=clusterfit_lable"],
        ["engine_name: found 'clusterfit_lable', no registered engine", "Did you mean clusterfit_label"],
    ),
    "a misspelt optimizer": (
        ["config.OPTIMIZER.name=adamv"],
        ["config.OPTIMIZER.name: found 'adamv'", "Did you mean ada"],
    ),
    "a misspelt loss": (
        ["config.LOSS.name=clusterfit_los"],
        ["config.LOSS.name: found", "Did you mean clusterfit_loss"],
    ),
    "a misspelt head": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_hed,{num_clusters:4}]]"],
        ["config.MODEL.HEAD.PARAMS[0]: found 'clusterfit_hed'", "Did you mean clusterfit_head"],
    ),
    "a misspelt head among several": (
        ["config.MODEL.HEAD.PARAMS=[[[mlp,{dims:[4,4]}],[mpl,{dims:[4,4]}]]]"],
        ["config.MODEL.HEAD.PARAMS[0][1]: found 'mpl'", "Did you mean mlp"],
    ),
    "a misspelt collator": (
        ["config.DATA.TRAIN.COLLATE_FUNCTION=default_colate"],
        ["config.DATA.TRAIN.COLLATE_FUNCTION: found 'default_colate'", "Did you mean default_collate"],
    ),
    "a misspelt trunk": (
        ["config.MODEL.TRUNK.NAME=regnett"],
        ["config.MODEL.TRUNK.NAME: found 'regnett'", "Did you mean regnet"],
    ),
    "a misspelt trunk of the teacher": (
        ["+config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME=regnt"],
        ["config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME: found 'regnt'", "Did you mean regnet"],
    ),
    "a misspelt data source": (
        ["config.DATA.TRAIN.DATA_SOURCES=[disk_foldr]"],
        ["config.DATA.TRAIN.DATA_SOURCES[0]: found 'disk_foldr'", "Did you mean disk_folder"],
    ),
    "a misspelt schedule": (
        [f"{_LR}.name=cosin"],
        [f"{_LR}.name: found 'cosin', no registered scheduler", "Did you mean cosine"],
    ),
    "a misspelt schedule of a composite": (
        [f"{_LR}={{name:composite,schedulers:[{{name:liner}}],lengths:[1.0],interval_scaling:[fixed]}}"],
        [f"{_LR}.schedulers[0].name: found 'liner'", "Did you mean linear"],
    ),
    "a misspelt meter": (
        ["config.METERS.names=[accuracy_list_meters]"],
        ["config.METERS.names[0]: found 'accuracy_list_meters'", "Did you mean accuracy_list_meter"],
    ),
    "a misspelt transform": (
        ["config.DATA.TRAIN.TRANSFORMS=[{name:RandomResizedCrp,size:32},{name:ToTensor}]"],
        ["config.DATA.TRAIN.TRANSFORMS[0].name: found 'RandomResizedCrp'", "Did you mean RandomResizedCrop"],
    ),
    "a misspelt transform of the features": (
        ["config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resiz,size:32},{name:ToTensor}]"],
        ["config.CLUSTERFIT.FEATURES.TRANSFORMS[0].name: found 'Resiz'", "Did you mean Resize"],
    ),
}


@pytest.mark.parametrize("overrides, fragments", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_gets_one_message(refuse, overrides, fragments):
    require_refusal(refuse(*overrides), *fragments)
