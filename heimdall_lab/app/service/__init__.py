"""The server beneath the pages: ``server`` makes it, ``rest`` is its interface for scripts.

``tasks`` defines what can be generated or trained and why a task is refused; a new kind of job goes there and into
``job_process``, which does it. ``jobs`` is the queue. ``snapshot`` lists datasets and jobs once for all pages.
``side_process`` calls what imports PyTorch or MLflow outside of the server; ``free_memory`` gives free memory back.
"""
