"""The pages of the dashboard, one viewer a question."""
