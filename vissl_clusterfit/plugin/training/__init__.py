"""What takes part in a training of VISSL: hook, losses, meter, progress."""
