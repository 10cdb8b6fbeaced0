"""Datasets: one file for each family; each declares its names in STATS and its splits in SPLITS."""
