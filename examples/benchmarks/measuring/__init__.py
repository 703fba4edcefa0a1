"""What the benchmark programs share: the machine, layers and networks of peers, tables, plots, the page."""
