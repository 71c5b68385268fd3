"""All target data sets, by the names that the tool and the configs use."""

from __future__ import annotations

from vissl_clusterfit.datasets.cars import STANFORD_CARS
from vissl_clusterfit.datasets.cifar import CIFAR100
from vissl_clusterfit.datasets.flowers import FLOWERS102
from vissl_clusterfit.datasets.food import FOOD101
from vissl_clusterfit.datasets.imagenet import IMAGENET1K, IMAGENET9K
from vissl_clusterfit.datasets.inaturalist import INATURALIST2018, INATURALIST2019
from vissl_clusterfit.datasets.places import PLACES205, PLACES365
from vissl_clusterfit.datasets.voc import VOC2007

RECIPES = {
    "cars": STANFORD_CARS,
    "cifar100": CIFAR100,
    "flowers102": FLOWERS102,
    "food101": FOOD101,
    "imagenet1k": IMAGENET1K,
    "imagenet9k": IMAGENET9K,
    "inat2018": INATURALIST2018,
    "inat2019": INATURALIST2019,
    "places205": PLACES205,
    "places365": PLACES365,
    "voc07": VOC2007,
}
