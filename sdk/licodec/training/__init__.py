"""Training: data shards, the loop, the codec's objective, conversion to integer nets, export to weights/."""
