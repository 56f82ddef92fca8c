"""The pages of the dashboard, one viewer a module; ``frame`` lists them and puts each into the common frame.

A page takes the data folder as ``root`` and has the parameter ``dark``. If it has ``refresh``, the frame calls that
once a second.
"""
