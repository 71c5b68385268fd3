"""The distribution ``vissl-clusterfit``, with lower bounds; the tested versions are in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "vissl_clusterfit/__init__.py").read_text("utf-8"), re.M)

# VISSL itself is missing on purpose: it pins versions that no current Python can build, so it is installed by
# `pip install --no-deps vissl==0.1.6`. Its real needs are in this list.
INSTALL_REQUIRES = [
    "av>=17.1",
    "fvcore>=0.1.5",
    "hydra-core>=1.3,<2",
    "iopath>=0.1.9",
    "jinja2>=3.1",
    "matplotlib>=3.7",
    "numpy>=1.24",
    "omegaconf>=2.3,<3",
    "parameterized>=0.8",
    "pillow>=10.1",
    "pyyaml>=6.0",
    "safetensors>=0.4",
    "scikit-learn>=1.6",
    "scipy>=1.10",
    "submitit>=1.4",
    "tabulate>=0.8.9",
    "torch>=2.9",
    "torchvision>=0.24",
    "tqdm>=4.66.3",
]

EXTRAS_REQUIRE = {
    # Both provide the module `faiss`: take one of them, never both.
    "cpu": ["faiss-cpu>=1.8"],
    "gpu": ["faiss-gpu>=1.8"],
    # Networks of other libraries, by name.
    "models": ["timm>=1.0.12", "transformers>=5.4"],
    # Features, labels and lists of images as Parquet.
    "parquet": ["pyarrow>=15"],
    # Images in a Hugging Face data set on disk, and in LMDB.
    "images": ["datasets>=4", "lmdb>=1.4"],
    # A network as ONNX, checked.
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
    # What a training writes for besides its own files.
    "loggers": ["mlflow-skinny>=3.17", "tensorboard>=2.14", "wandb>=0.31"],
    # The documents as a site; their versions are in requirements-docs.lock, in an environment of their own.
    "docs": ["mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"],
    # A peer in benchmarks/kmeans.py, which runs without it, too.
    "benchmarks": ["superkmeans>=0.2"],
    "dev": [
        "datasets>=4",
        "hypothesis>=6.100",
        "lmdb>=1.4",
        "mypy>=1.10",
        "onnx>=1.17",
        "onnxruntime>=1.20",
        "onnxscript>=0.5",
        "pyarrow>=15",
        "pytest>=8.0",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "selenium>=4.20",
        "setuptools>=77.0.3",
        "tensorboard>=2.14",
        "timm>=1.0.12",
        "transformers>=5.4",
        "uv>=0.13.9",
    ],
}

setup(
    name="vissl-clusterfit",
    version=VERSION.group(1),
    description="ClusterFit for VISSL: from a pre-trained network to one retrained on cluster labels",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="vissl-clusterfit contributors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",  # the oldest and the newest that the tests ran on
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    # VISSL installs top-level packages named tools, tests and configs, which ours must not overlay: so only
    # these are packages, and the top-level configs/ becomes data of the package.
    packages=[
        *find_packages(include=["vissl_clusterfit", "vissl_clusterfit.*"]),
        "vissl_clusterfit.configs",
        # A namespace package, named so that an editable install shows its folder to Hydra.
        "hydra_plugins",
        "hydra_plugins.vissl_clusterfit_plugin",
    ],
    package_dir={"vissl_clusterfit.configs": "configs"},
    package_data={
        "vissl_clusterfit.configs": ["**/*.yaml"],
        "vissl_clusterfit": ["py.typed", "report/published.json", "browse/assets/*"],
    },
    zip_safe=False,
    entry_points={"console_scripts": ["vissl-clusterfit = vissl_clusterfit.commands.main:main"]},
)
