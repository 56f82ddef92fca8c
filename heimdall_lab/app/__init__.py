"""The dashboard: one viewer for each question, which a page of the server or a notebook shows."""
