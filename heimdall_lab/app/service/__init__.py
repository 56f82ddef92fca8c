"""The server beneath the pages: ``server`` makes it, ``rest`` is its interface for scripts.

``tasks`` defines what can be generated or trained and why a task is refused; a new kind of job goes there and into
``job_process``, which does it. ``jobs`` is the queue. ``snapshot`` lists datasets and jobs once for all pages.
"""
