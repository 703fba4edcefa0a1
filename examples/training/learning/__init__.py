"""What the training programs share: data, networks, backups, workers."""
