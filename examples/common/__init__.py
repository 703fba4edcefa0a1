"""What programs of several folders share: flags, timing, records of a run, the table of layers, swapping layers."""
