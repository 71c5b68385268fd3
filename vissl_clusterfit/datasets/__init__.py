"""Target data sets of transfer, from the archives as their publishers ship them to what VISSL's data sources read.

A :class:`~vissl_clusterfit.datasets.recipe.Recipe` says which archives a data set has and how many images, one module
per publisher's layout reads them, ``preparation`` does what is common to all, and ``catalogue`` lists the recipes.
Nothing is ever downloaded.
"""
