"""Datasets: the contract of their variables, their folders on disk, and what is read into them.

`schema` holds the contract, and labels and checks datasets. `store` writes, opens, verifies and deletes their folders;
`manifest` is the record of a folder's shards, `catalogue` the list of all folders, `size` what a dataset takes on disk,
`netcdf` the files themselves. `splits` tells training, validation and test scenes apart. `recordings` reads and writes
files of real receivers, `terrain` the heights of the ground.

A new variable goes to `schema`, a new file format to `recordings`. This file imports nothing, because it is imported at
every start.
"""
