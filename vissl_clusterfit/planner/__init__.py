"""What a clustering will take in time and memory, measured on this machine before it starts."""
