"""What the benchmark programs of examples/ share: timing, the machine, layers and networks of peers, plots, records."""
