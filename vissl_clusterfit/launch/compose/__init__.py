"""From overrides on a command line to the config of a run, checked before any process starts."""
