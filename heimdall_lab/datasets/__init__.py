"""Datasets: the contract of their variables, their folders on disk, and what files and maps are read into them."""
