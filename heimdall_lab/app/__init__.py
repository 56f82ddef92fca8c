"""The dashboard and its server.

``pages``: one viewer a question, which the server or a notebook shows; a new page goes there, and into
``pages.frame.PAGES``. ``parts``: what several pages are made of. ``service``: the server, its interface for scripts,
and the jobs that generate and train in processes of their own. Computations belong to the folders below, not here.
"""
