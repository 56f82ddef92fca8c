"""Parts of several pages: layout and errors, tables, forms of pydantic models, uploads, the choice of a dataset.

``layout`` has sections, notes, themes and alerts; ``texts`` what shows text from outside as it is; ``tables``,
``pictures`` and ``uploads`` one kind of widget each; ``fields`` the form of any model; ``dataset_choice`` the base of
pages about one dataset; ``background`` the threads for long computations; ``echoes`` keeps browsers from undoing what
the server set. ``job_list``, ``new_dataset`` and ``preview`` are larger parts of single pages.
"""
