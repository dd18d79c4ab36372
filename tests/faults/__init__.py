"""What is tried many times with chance in it, because one try shows little. `scripts/faults --help`."""
