"""The repairs of ``torch.load``: what VISSL's checkpoints may hold, and the way to trust a file that holds more."""

from __future__ import annotations

import logging
import os
from typing import Any

logger = logging.getLogger(__name__)

#: An environment variable; with 1, VISSL's ``torch.load`` reads any pickle: see :func:`trusted_checkpoints`.
TRUST_VARIABLE = "VISSL_CLUSTERFIT_TRUST_CHECKPOINTS"


def trusted_checkpoints() -> bool:
    """Any pickle as a checkpoint, as before PyTorch 2.6, but only if the user sets ``TRUST_VARIABLE`` to 1.

    VISSL and classy call ``torch.load`` without ``weights_only``, whose default turned from False to True in
    2.6. PyTorch's own variable turns it back for such calls, in child processes too; a call with
    ``weights_only=True`` stays safe. A file that is read like this can run any code. For the weights of the
    teacher alone there is ``CLUSTERFIT.TEACHER.TRUST_WEIGHTS``.
    """
    value = os.environ.get(TRUST_VARIABLE, "")
    if value not in ("", "0", "1"):
        logger.warning("%s: found %r; allowed: 0 and 1. Checkpoints are not trusted.", TRUST_VARIABLE, value)
    if value != "1":
        return False
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    return True


def checkpoint_types(torch: Any) -> bool:
    """``AttrDict`` and NumPy's numbers in checkpoints, refused by default since PyTorch 2.6.

    Loaded by vissl/utils/checkpoint.py and cluster_utils.py and by classy generic/util.py and
    distributed_util.py: checkpoints of training, older ones with their configuration, cluster assignments.
    What is allowed, and why no more: ``checkpoints.py``.
    """
    from vissl_clusterfit.compat.checkpoints import safe_globals

    torch.serialization.add_safe_globals(safe_globals())
    return True
