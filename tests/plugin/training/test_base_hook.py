"""A hook of ours answers every call of VISSL's trainer."""

from vissl.hooks import SSLClassyHookFunctions

from vissl_clusterfit.plugin.training.base_hook import Hook


def test_it_does_nothing_at_every_moment_that_vissl_calls_hooks():
    hook = Hook()
    assert [getattr(hook, moment.name)(None) for moment in SSLClassyHookFunctions] == [None] * len(
        SSLClassyHookFunctions
    )
