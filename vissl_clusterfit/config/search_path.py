"""Where our Hydra configs are: inside the installed package, or at the top of a source checkout."""

from pathlib import Path


def config_dir() -> Path:
    """Returns the folder that holds ``config/clusterfit/*.yaml``.

    A wheel carries the configs inside the package; a checkout, and so an editable install, has them in its
    top-level ``configs/``.
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
