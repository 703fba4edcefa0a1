"""What the training programs of examples/ share: data, networks, records of a run, workers."""
